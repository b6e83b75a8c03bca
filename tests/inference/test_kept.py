"""Embeddings of folders that are kept: each file is embedded once, whatever happens in between."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxml.data.index import ImageError
from jaxml.data.sources import unlabelled
from jaxml.inference import Index, kept

SIDE = 4


@dataclass
class Colours:
    """A network that embeds a picture by its mean colour, in parts of three; counts what it embeds."""

    cache: str
    fingerprint: str = "one"
    embedded: list[str] = field(default_factory=list)
    dimensions = 3

    def embed(self, pictures, boxes=None):
        raise NotImplementedError

    def embed_parts(self, source, errors):
        places, values = [], []
        for i, pixels in enumerate(source.decode(SIDE)):
            if isinstance(pixels, ImageError):
                errors[source.names[i]] = str(pixels)
                continue
            self.embedded.append(source.names[i])
            places.append(i)
            values.append(pixels.mean((0, 1)))
            if len(places) == 3:
                yield places, np.array(values, np.float32)
                places, values = [], []
        if places:
            yield places, np.array(values, np.float32)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    (root / "below").mkdir(parents=True)
    for i in range(8):
        paint(root / f"{'below/' if i % 2 else ''}{i}.png", i)
    return root


def paint(path, value):
    Image.new("RGB", (5, 5), (value, 2 * value, 255 - value)).save(path)


def found(model, root, **options):
    pictures = unlabelled.find(root, **options)
    embeddings, rows, errors = kept.embed_folder(model, pictures)
    return {pictures.names[row]: x[0] for row, x in zip(rows, embeddings, strict=True)}, errors


def test_each_file_is_embedded_once(folder, tmp_path):
    model = Colours(str(tmp_path / "cache"))
    want = {f"{'below/' if i % 2 else ''}{i}.png": float(i) for i in range(8)}
    assert found(model, folder)[0] == want
    assert sorted(model.embedded) == sorted(want)
    again = Colours(model.cache)
    assert found(again, folder)[0] == want
    assert again.embedded == []
    # Changed, new and removed files, one by one.
    paint(folder / "2.png", 50)
    os.utime(folder / "2.png", ns=(1, 1))
    paint(folder / "new.png", 90)
    (folder / "4.png").unlink()
    after, _ = found(again, folder)
    assert sorted(again.embedded) == ["2.png", "new.png"]
    assert (after["2.png"], after["new.png"], after["6.png"]) == (50, 90, 6)
    assert "4.png" not in after


def test_another_network_folder_or_crop_is_embedded_anew(folder, tmp_path):
    first = Colours(str(tmp_path / "cache"))
    found(first, folder)
    other = Colours(first.cache, fingerprint="two")
    found(other, folder)
    assert len(other.embedded) == 8
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file,left,top,width,height\n" + "".join(f"{name},0,0,3,3\n" for name in first.embedded))
    boxed = Colours(first.cache)
    found(boxed, folder, boxes=boxes)
    assert len(boxed.embedded) == 8
    found(boxed, folder, boxes=boxes)
    assert len(boxed.embedded) == 8


def test_files_that_cannot_be_read_are_tried_again(folder, tmp_path):
    (folder / "3.png").write_text("no picture")
    (folder / "gone.png").symlink_to("nowhere")
    model = Colours(str(tmp_path / "cache"))
    values, errors = found(model, folder)
    assert {*errors} == {"3.png", "gone.png"}
    assert len(values) == 8
    paint(folder / "3.png", 3)
    values, errors = found(model, folder)
    assert (values["3.png"], {*errors}) == (3, {"gone.png"})
    for path in folder.rglob("*.png"):
        path.unlink()
    (folder / "3.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"3\.png"):
        found(model, folder)


def test_names_that_are_no_text(folder, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    paint(folder / "0.png", 7)
    (folder / "0.png").rename(folder / name)
    for count in (8, 0):
        model = Colours(str(tmp_path / "cache"))
        assert found(model, folder)[0][name] == 7
        assert len(model.embedded) == count


def test_a_damaged_file_is_made_anew(folder, tmp_path):
    model = Colours(str(tmp_path / "cache"))
    found(model, folder)
    (file,) = (tmp_path / "cache" / "embeddings").iterdir()
    file.write_bytes(b"no database" * 1000)
    with pytest.warns(UserWarning, match="is damaged, and embeddings are made anew"):
        assert len(found(model, folder)[0]) == 8
    assert len(model.embedded) == 16
    found(model, folder)
    assert len(model.embedded) == 16


def test_where_nothing_can_be_kept(folder, tmp_path):
    (tmp_path / "cache").write_text("a file")
    model = Colours(str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="embeddings are not kept"):
        assert len(found(model, folder)[0]) == 8
    assert len(found(Colours(""), folder)[0]) == 8


def test_an_index_of_a_folder_embeds_it_once(folder, tmp_path):
    model = Colours(str(tmp_path / "cache"))
    first = Index.of(model, folder)
    second = Index.of(model, str(folder))
    assert len(model.embedded) == len(first) == 8
    np.testing.assert_array_equal(first.embeddings, second.embeddings)


SLOW = """
import sys, time
from tests.inference.test_kept import Colours, found
from jaxml.inference import kept
class Slow(Colours):
    def embed_parts(self, source, errors):
        for part in super().embed_parts(source, errors):
            time.sleep(0.2)
            yield part
kept.SECONDS = 0.3
found(Slow(sys.argv[2]), sys.argv[1])
"""


def test_a_kill_loses_little(folder, tmp_path):
    """SIGKILL in the middle: what was written before is there, and nothing wrong."""
    for i in range(8, 60):
        paint(folder / f"{i}.png", i)
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(folder), str(cache)], cwd=Path(__file__).parents[2]
    )
    end = time.monotonic() + 120
    while time.monotonic() < end and written(cache) < 9:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    count = written(cache)
    assert 9 <= count < 60
    model = Colours(str(cache))
    values, _ = found(model, folder)
    assert len(model.embedded) == 60 - count
    assert values == {name: float(Path(name).stem) for name in values}
    assert len(values) == 60


def written(cache):
    files = list(cache.glob("embeddings/*.sqlite"))
    if not files:
        return 0
    try:
        with sqlite3.connect(files[0]) as file:
            return file.execute("SELECT count(*) FROM embeddings").fetchone()[0]
    except sqlite3.OperationalError:  # before there is a table
        return 0
    finally:
        file.close()
