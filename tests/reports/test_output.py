"""The output folder: it appears complete, and only earlier results in it are replaced."""

import json
from pathlib import Path

import pytest

from jaxml.files import MARKER
from jaxml.reports import output


def tree(root):
    """Every file below `root`, with its content."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def write(out, names, text="ours", kind="results", **options):
    with output.output_folder(out, kind, **options) as place:
        for name in names:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)


def write_half(out):
    before = tree(out)
    with output.output_folder(out, "results") as place:
        (place / "page.html").write_text("half")
        assert {name: text for name, text in tree(out).items() if "jaxml-part-" not in name} == before
        raise InterruptedError


def listed(out):
    return sorted(set(tree(out)) - {MARKER})


def test_an_output_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "new" / "out"
    with pytest.raises(InterruptedError):
        write_half(out)
    assert not tree(tmp_path)
    write(out, ["page.html", "sheets/1.jpg"])
    assert listed(out) == ["page.html", "sheets/1.jpg"]
    with pytest.raises(InterruptedError):
        write_half(out)
    assert (out / "page.html").read_text() == "ours"
    assert listed(out) == ["page.html", "sheets/1.jpg"]


def test_exactly_the_files_of_the_earlier_output_are_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write(out, ["page.html", "sheets/1.jpg", "sheets/2.jpg"])
    (out / "sheets/notes.txt").write_text("mine")
    (out / "thesis").mkdir()
    (out / "thesis/1.tex").write_text("mine")
    write(out, ["page.html", "sheets/1.jpg"], "later")
    assert listed(out) == ["page.html", "sheets/1.jpg", "sheets/notes.txt", "thesis/1.tex"]
    assert (out / "page.html").read_text() == (out / "sheets/1.jpg").read_text() == "later"
    assert (out / "sheets/notes.txt").read_text() == (out / "thesis/1.tex").read_text() == "mine"
    (out / "sheets/1.jpg").unlink()  # a file that the user has deleted
    write(out, ["page.html"], "last")
    assert listed(out) == ["page.html", "sheets/notes.txt", "thesis/1.tex"]


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"--out .* holds files that are not results .* such as thesis\.txt"):
        write(tmp_path, ["page.html"])
    assert list(tree(tmp_path)) == ["thesis.txt"]
    with pytest.raises(ValueError, match=r"--out .*thesis\.txt is not a folder"):
        write(tmp_path / "thesis.txt", ["page.html"])


def test_results_that_somebody_has_edited_are_not_overwritten(tmp_path):
    write(tmp_path / "out", ["table.csv"])
    (tmp_path / "out/table.csv").write_text("with my own column")
    with pytest.raises(ValueError, match=r"table\.csv has been changed since it was written"):
        write(tmp_path / "out", ["table.csv"])
    assert (tmp_path / "out/table.csv").read_text() == "with my own column"


def test_results_of_another_kind_are_refused(tmp_path):
    write(tmp_path / "out", ["page.html"], kind="clusters")
    with pytest.raises(ValueError, match="holds something else than nearest pictures of an earlier call"):
        write(tmp_path / "out", ["page.html"], kind="nearest pictures")
    assert (tmp_path / "out/page.html").read_text() == "ours"


def test_a_file_in_the_way_is_left_alone_and_the_results_are_kept(tmp_path):
    out = tmp_path / "out"
    write(out, ["1.jpg"])
    (out / "2.jpg").write_text("mine")
    with pytest.raises(
        ValueError, match=r"2\.jpg is not of an earlier call .*; the results are in (.*)"
    ) as caught:
        write(out, ["1.jpg", "2.jpg"], "later")
    assert (out / "2.jpg").read_text() == "mine"
    assert (out / "1.jpg").read_text() == "ours"
    kept = Path(str(caught.value).rsplit(" in ", 1)[1])
    assert (kept / "2.jpg").read_text() == "later"


@pytest.mark.parametrize("listed", ["../thesis.txt", "/etc/hostname", "link/thesis.txt", "..", "sub/.."])
def test_a_marker_cannot_name_files_elsewhere(tmp_path, listed):
    (tmp_path / "thesis.txt").write_text("years of work")
    out = tmp_path / "out"
    write(out, ["page.html"])
    (out / "link").symlink_to(tmp_path)
    digest = output._hash(tmp_path / "thesis.txt")
    (out / MARKER).write_text(json.dumps({"kind": "results", "files": {listed: digest}}))
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="--out"):
        write(out, ["page.html"])
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "content", ["", "null", "[]", '{"kind": "results"}', '{"kind": "results", "files": [1]}']
)
def test_a_damaged_marker_is_named(tmp_path, content):
    write(tmp_path / "out", ["page.html"])
    (tmp_path / "out" / MARKER).write_text(content)
    with pytest.raises(ValueError, match="out"):
        write(tmp_path / "out", ["page.html"])
    assert (tmp_path / "out/page.html").read_text() == "ours"


def test_an_output_in_or_around_the_input_is_refused(tmp_path):
    images = tmp_path / "ct" / "contact"
    images.mkdir(parents=True)
    (images / "a.png").write_text("mine")
    (tmp_path / "link").symlink_to(images)
    (tmp_path / "top").symlink_to(tmp_path)
    cases = {
        images: "is --images",
        tmp_path / "link": "is --images",
        tmp_path / "ct": "holds --images",
        tmp_path / "top" / "ct": "holds --images",
        images / "out" / "deeper": "lies in --images",
        tmp_path / "link" / "out": "lies in --images",
        images / ".." / "contact": "is --images",
    }
    for out, message in cases.items():
        for given in (images, tmp_path / "link"):
            with pytest.raises(ValueError, match=f"--out .* {message} .*; give another folder"):
                write(out, ["page.html"], apart={"--images": given})
    assert tree(tmp_path) == {"ct/contact/a.png": b"mine"}
    write(tmp_path / "ct2", ["page.html"], apart={"--images": images})


def test_an_output_folder_may_be_a_link_to_another_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for _ in range(2):
        write(tmp_path / "out", ["page.html"])
    assert (tmp_path / "out").is_symlink()
    assert listed(tmp_path / "disk") == ["page.html"]
