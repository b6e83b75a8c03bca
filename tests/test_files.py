"""Files that are written whole or not at all, for whoever the umask lets read them; text that is no JSON; no home."""

import os
import stat

import pytest

from jaxml.files import expand, new_folder, parse_json, replacing, write_atomically


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
    assert mode(new_folder(tmp_path, "part-")) == 0o777 & ~umask


def test_new_folders_have_different_names(tmp_path):
    found = [new_folder(tmp_path / "a", "part-") for _ in range(3)]
    assert sorted(found) == sorted((tmp_path / "a").iterdir())
    assert all(folder.name.startswith("part-") for folder in found)


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
