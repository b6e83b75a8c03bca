"""Files and folders: written whole or not at all, for whoever the umask lets read them, and named in errors."""

import fcntl
import multiprocessing
import os
import signal
import stat
import time
import unicodedata
from pathlib import Path

import pytest

from jaxml.files import (
    MARKER,
    expand,
    move_into_place,
    parse_json,
    printable,
    replacing,
    unfinished_folder,
    write_atomically,
)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o027], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_modes_follow_the_umask(umask, tmp_path):
    write_atomically(tmp_path / "new" / "file", "text")
    assert mode(tmp_path / "new" / "file") == 0o666 & ~umask
    with unfinished_folder(tmp_path, "test") as folder:
        assert mode(folder) == 0o777 & ~umask


def test_unfinished_folders_have_different_names(tmp_path):
    with unfinished_folder(tmp_path / "a", "x") as one, unfinished_folder(tmp_path / "a", "x") as two:
        assert sorted((one, two)) == sorted((tmp_path / "a").iterdir())


def write_half(path):
    with replacing(path) as file:
        file.write("ne")
        raise InterruptedError


def test_what_is_written_halfway_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(InterruptedError):
        write_half(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{", b"\xff", b"", b"1" * 100_000])
def test_text_that_is_no_json_is_named(text):
    with pytest.raises(ValueError, match=r"^some/file is no JSON file"):
        parse_json(text, "some/file")


def test_without_a_home_folder_the_option_to_set_is_named(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where HOME is not set
    with pytest.raises(ValueError, match=r"--data\.cache is '~/x'.*set --data\.cache"):
        expand("~/x", "--data.cache")


def test_the_home_folder_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/x", "--data.cache") == tmp_path / "x"


def tree(root):
    """Every file below `root`, with its content."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def leave_over(parent, pipe):
    with unfinished_folder(Path(parent), "test") as folder:
        (folder / "big").write_text("x")
        pipe.send(folder.name)
        time.sleep(600)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    ours, theirs = multiprocessing.Pipe()
    living = multiprocessing.get_context("spawn").Process(target=leave_over, args=(str(tmp_path), theirs))
    living.start()
    name = ours.recv()
    with unfinished_folder(tmp_path, "test") as folder:
        assert folder.is_dir()
        assert (tmp_path / name / "big").exists()
    assert not folder.exists()
    os.kill(living.pid, signal.SIGKILL)
    living.join()
    assert (tmp_path / name / "big").exists()
    with unfinished_folder(tmp_path, "test"):
        assert not (tmp_path / name).exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["part-1", "jaxml-part-1", "jaxml-part-" + "0" * 32, "jaxml-part-" + "g" * 32]
)
def test_a_folder_that_only_looks_like_ours_is_left_alone(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    with_marker = tmp_path / "jaxml-part-mine"
    with_marker.mkdir()
    (with_marker / MARKER).write_text("{}")
    aside = tmp_path / "aside"
    aside.mkdir()
    (aside / MARKER).write_text("{}")
    (tmp_path / ("jaxml-part-" + "1" * 32)).symlink_to(aside)
    for path in (tmp_path, *tmp_path.iterdir()):
        os.utime(path, (0, 0))
    before = tree(tmp_path)
    with unfinished_folder(tmp_path, "test"):
        pass
    assert tree(tmp_path) == before


def test_where_locks_are_not_supported_nothing_is_removed(tmp_path, monkeypatch):
    def unsupported(file, operation):
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with unfinished_folder(tmp_path, "test") as first:
        (first / "file").write_text("x")
        with unfinished_folder(tmp_path, "test") as second:
            assert (first / "file").exists()
            assert second != first


def test_a_finished_folder_replaces_the_files_of_one_of_ours_and_nothing_else(tmp_path):
    for text in ("old", "new"):
        with unfinished_folder(tmp_path, "test") as part:
            (part / "sub").mkdir()
            (part / "sub/file").write_text(text)
            move_into_place(part, tmp_path / "place")
        (tmp_path / "place/mine").write_text("mine")
    assert {name: data for name, data in tree(tmp_path).items() if not name.endswith(MARKER)} == {
        "place/sub/file": b"new",
        "place/mine": b"mine",
    }
    (tmp_path / "place" / MARKER).unlink()
    with unfinished_folder(tmp_path, "test") as part, pytest.raises(OSError, match="place"):
        move_into_place(part, tmp_path / "place")
    assert sorted(tree(tmp_path)) == ["place/mine", "place/sub/file"]


HOSTILE = [
    "a\x1b[2Jb",
    "a\nb",
    "a\r\tb",
    "a\x00\x07\x7f\x9bb",
    "photo\u202egpj.exe",
    "a\u2066b\u2069",
    "a\u2028b\u2029",
    "b\udcff\udc80",
    "\ufeffa\u200b",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_terminal_would_obey_is_shown_and_never_sent(name):
    shown = printable(name)
    for character in shown:
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"), repr(character)
    assert len(shown.splitlines()) == 1
    assert shown.encode("utf-8")
    assert printable(shown) == shown
    assert shown.encode("ascii").decode("unicode_escape") == name


def test_different_bytes_are_shown_differently():
    shown = [printable(name) for name in ("a\udcff", "a\udcfe", "a\n", "a\x1b", "a", "a ")]
    assert len(set(shown)) == 6


@pytest.mark.parametrize("name", ["Ä ö.png", "鳥/図.jpg", "a b=1+1", "C:\\bird", "🐦.png"])
def test_ordinary_names_stay_as_they_are(name):
    assert printable(name) == name
