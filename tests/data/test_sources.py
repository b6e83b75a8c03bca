"""Data sets: what each source reads, draws and refuses."""

import hashlib
import io
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from jaxml import data
from jaxml.config import Data
from jaxml.data.decode import open_image
from jaxml.data.index import Records
from jaxml.data.sources import cub, folder, glyphs


@pytest.fixture(scope="module")
def drawn():
    return glyphs.load()


def test_glyphs_have_the_shape_of_cub(drawn):
    assert len(drawn.items) == 10_000
    assert np.bincount(drawn.labels).tolist() == [50] * 200
    assert len(set(drawn.class_names)) == 200
    assert Image.open(io.BytesIO(drawn.items[1234])).size == (64, 64)


def test_glyphs_are_the_same_for_the_same_seed_only(drawn):
    again, other = glyphs.load(), glyphs.load(seed=1)
    rows = (0, 77, 9999)
    assert [drawn.items[i] for i in rows] == [again.items[i] for i in rows]
    assert drawn.hashes == again.hashes
    assert all(drawn.items[i] != other.items[i] for i in rows)
    assert not set(drawn.hashes) & set(other.hashes)
    assert len(set(drawn.hashes)) == 10_000
    with pytest.raises(IndexError):
        drawn.items[10_000]


def test_every_split_has_its_share_of_each_script():
    scripts = [unicodedata.name(c).split()[0] for c in glyphs.CHARACTERS]
    for script in ("LATIN", "CYRILLIC", "ARMENIAN"):
        halves = [scripts[:100].count(script), scripts[100:].count(script)]
        assert min(halves) > 0.3 * max(halves), script


def bitmaps(characters, face, angle):
    """The characters, turned, scaled to the same size, blurred, standardised: [n, 24 * 24]."""
    out = []
    for character in characters:
        glyph = glyphs._mask(character, face, 0).rotate(angle, Image.Resampling.BILINEAR)
        glyph = glyph.crop(glyph.getbbox())
        scale = 20 / max(glyph.size)
        glyph = glyph.resize([max(1, round(n * scale)) for n in glyph.size], Image.Resampling.BILINEAR)
        canvas = Image.new("L", (24, 24))
        canvas.paste(glyph, ((24 - glyph.width) // 2, (24 - glyph.height) // 2))
        pixels = np.asarray(canvas.filter(ImageFilter.GaussianBlur(1.0)), np.float64).ravel()
        out.append((pixels - pixels.mean()) / pixels.std() / 24)
    return np.array(out)


@pytest.mark.parametrize("face", ["DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf"])
def test_no_two_glyphs_look_alike(face):
    upright = bitmaps(glyphs.CHARACTERS, face, 0)
    for angle in (-20, -10, 0, 10, 20):
        likeness = upright @ bitmaps(glyphs.CHARACTERS, face, angle).T
        np.fill_diagonal(likeness, 0)
        first, second = np.unravel_index(likeness.argmax(), likeness.shape)
        assert likeness.max() < 0.9, (glyphs.CHARACTERS[first], glyphs.CHARACTERS[second])


@pytest.mark.parametrize("pair", ["Oo", "lI", "AА", "8B", "sS"])  # noqa: RUF001
def test_the_measure_finds_look_alikes(pair):
    first, second = bitmaps(pair, "DejaVuSans.ttf", 0)
    assert first @ second > 0.9


def test_kmeans_on_raw_pixels_does_poorly(drawn):
    rows = np.flatnonzero(drawn.labels >= 160)
    pixels = np.array(
        [np.asarray(open_image(drawn.items[i], "").resize((16, 16))).ravel() for i in rows], np.float32
    )
    found = KMeans(40, n_init=1, random_state=0).fit_predict(pixels)
    assert normalized_mutual_info_score(drawn.labels[rows], found) < 0.3


def official_folder(top: Path) -> Path:
    """The text files of CUB-200-2011 with the official counts; no images."""
    root = top / "CUB_200_2011"
    root.mkdir()
    sizes = np.full(200, 58)
    sizes[:64] += 1
    sizes[100:200] += 1
    sizes[100:124] += 1
    labels = np.repeat(np.arange(1, 201), sizes)
    numbers = range(1, len(labels) + 1)
    (root / "classes.txt").write_text("".join(f"{c} {c:03d}.Bird_{c}\n" for c in range(1, 201)))
    images = [f"{c:03d}.Bird_{c}/{i}.jpg" for i, c in zip(numbers, labels, strict=True)]
    (root / "images.txt").write_text(
        "".join(f"{i} {name}\n" for i, name in zip(numbers, images, strict=True))
    )
    (root / "image_class_labels.txt").write_text(
        "".join(f"{i} {c}\n" for i, c in zip(numbers, labels, strict=True))
    )
    (root / "bounding_boxes.txt").write_text("".join(f"{i} {i % 7}.5 2.0 30.0 40.0\n" for i in numbers))
    return root


def test_cub_reads_the_official_files(tmp_path):
    index = cub.load(str(official_folder(tmp_path)))
    assert len(index.items) == 11_788
    assert np.sum(index.labels < 100) == 5_864
    assert np.sum(index.labels >= 100) == 5_924
    assert index.class_names[4] == "005.Bird_5"
    assert index.items[0] == str(tmp_path / "CUB_200_2011/images/001.Bird_1/1.jpg")
    assert index.boxes[7].tolist() == [1.5, 2, 30, 40]


def test_cub_names_a_missing_file(tmp_path):
    root = official_folder(tmp_path)
    (root / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"classes\.txt cannot be read .* must be the folder CUB_200_2011"):
        cub.load(str(root))


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("images.txt", None, "lists 11787 images"),
        ("image_class_labels.txt", "11788 x", r"image_class_labels\.txt: .* not a number"),
        ("image_class_labels.txt", "11788 3", r"5865 \+ 5923 images"),
        ("bounding_boxes.txt", "11788 1 2 1e30 4", r"the box of image 200\.Bird_200/11788\.jpg is"),
        ("image_class_labels.txt", "11788 99999999999", r"image_class_labels\.txt: .* not a number"),
        ("bounding_boxes.txt", "11788 1 2 3", r"bounding_boxes\.txt, line 11788: expected .* 4 value"),
        ("images.txt", "9 a/b.jpg", r"images\.txt, line 11788: expected number 11788"),
    ],
)
def test_cub_refuses_files_that_are_not_the_official_ones(tmp_path, name, line, message):
    root = official_folder(tmp_path)
    lines = (root / name).read_text().splitlines()[:-1]
    (root / name).write_text("\n".join(lines + ([line] if line else [])))
    with pytest.raises(ValueError, match=message):
        cub.load(str(root))


def write_image(path: Path, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def test_folder_has_one_class_per_folder_in_natural_order(tmp_path):
    for name in ("class10/a.png", "class2/img10.jpg", "class2/img9.JPG", "class2/b.bmp"):
        write_image(tmp_path / name)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "class2" / ".DS_Store").write_text("")
    index = folder.load(str(tmp_path))
    assert index.class_names == ("class2", "class10")
    assert index.names == ("class2/b.bmp", "class2/img9.JPG", "class2/img10.jpg", "class10/a.png")
    assert index.labels.tolist() == [0, 0, 0, 1]
    (tmp_path / "class10" / "notes.txt").write_text("")
    with pytest.warns(UserWarning, match=r"1 files are not .*notes\.txt"):
        assert folder.load(str(tmp_path)).names == index.names


def test_folder_says_what_it_needs(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        folder.load(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="is not a folder"):
        folder.load("")
    with pytest.raises(ValueError, match="holds no folders"):
        folder.load(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        folder.load(str(tmp_path))


def test_class_folders_with_the_same_number_are_warned_of(tmp_path):
    for name in ("01", "1", "001", "2", "bird7", "bird07"):
        write_image(tmp_path / name / "a.png")
    message = r"3 class folder\(s\) have the name of another but for leading zeros, such as 001 and 01:"
    with pytest.warns(UserWarning, match=message):
        index = folder.load(str(tmp_path))
    # Their order does not depend on the disk.
    assert index.class_names == ("001", "01", "1", "2", "bird07", "bird7")


def test_links_to_nothing_and_pipes_are_not_left_out_in_silence(tmp_path):
    write_image(tmp_path / "a/1.png")
    (tmp_path / "a/2.png").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "a/3.png")
    assert folder.load(str(tmp_path)).names == ("a/1.png", "a/2.png", "a/3.png")


@pytest.mark.parametrize("number", [1e30, np.nan, np.inf, -(2.0**30)])
def test_boxes_that_no_image_can_have_are_refused(number):
    boxes = np.array([[1, 2, 3, 4], [1, number, 3, 4]], np.float32)
    with pytest.raises(ValueError, match=r"the box of image b\\n is .*must be numbers of pixels"):
        data.Index(["a", "b"], np.zeros(2, np.int32), boxes, ("x",), ("a", "b\n"))


def test_an_unknown_source_is_refused():
    message = f"--data.source is 'birds'; it must be one of {', '.join(data.SOURCES)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        data.load(Data(source="birds"))


def test_a_new_data_set_is_one_row(tmp_path, monkeypatch):
    """It is treated as every data set: its images are decoded once, and changes to them are noticed."""

    def load(root):
        path = Path(root) / "0.png"
        return data.Index([str(path)], np.zeros(1, np.int32), None, ("bird",), ("0",))

    monkeypatch.setitem(data.SOURCES, "birds", load)
    config = Data(source="birds", root=str(tmp_path), cache=str(tmp_path / "cache"))
    write_image(tmp_path / "0.png")
    assert data.load(config).hashes == (hashlib.sha256((tmp_path / "0.png").read_bytes()).hexdigest(),)
    write_image(tmp_path / "0.png", "L")
    with pytest.raises(data.ImageError, match="image 0 has changed"):
        data.load(config)


def test_an_index_whose_parts_do_not_fit_is_refused():
    labels = np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="labels must be int32"):
        data.Index(["a", "b"], labels[:1], None, ("x",), ("a", "b"))
    with pytest.raises(ValueError, match=r"boxes must be \[2, 4\]"):
        data.Index(["a", "b"], labels, np.zeros((2, 3), np.float32), ("x",), ("a", "b"))
    with pytest.raises(ValueError, match="2 different strings"):
        data.Index(["a", "b"], labels, None, ("x",), ("a", "a"))
    with pytest.raises(ValueError, match=r"0 \.\. 0"):
        data.Index(["a", "b"], labels + 1, None, ("x",), ("a", "b"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"is_query": [True], "is_gallery": [True, True]}, r"is_query must be bool \[2\]; got bool \(1,\)"),
        ({"is_query": [True, True], "is_gallery": [1, 0]}, r"is_gallery must be bool \[2\]; got int64"),
        ({"is_query": [True, True]}, "is_query and is_gallery must be given together"),
        ({"categories": ("x",)}, "categories must be 2 strings"),
        ({"sequences": ("x", "y", "z")}, "sequences must be 2 strings"),
    ],
)
def test_what_is_said_of_retrieval_is_of_every_image(given, message):
    given = {key: np.array(value) if key.startswith("is_") else value for key, value in given.items()}
    with pytest.raises(ValueError, match=message):
        data.Index(
            ["a", "b"],
            np.zeros(2, np.int32),
            None,
            ("x",),
            ("a", "b"),
            retrieval=data.Retrieval(**given),
        )


def test_pictures_are_read_only_when_they_are_needed():
    asked = []
    items = Records(lambda i: asked.append(i) or b"%d" % i, np.arange(10))
    labels, names = np.arange(10, dtype=np.int32), tuple(map(str, range(10)))
    index = data.Index(items, labels, None, names, names).take(np.array([7, 1, 3])).take(np.array([2, 0]))
    assert not asked
    assert list(index.items) == [b"3", b"7"]
    assert index.names == ("3", "7")
    with pytest.raises(IndexError):
        index.items[2]
