"""Decoding, the manifest of hashes, decoded arrays on disk, tf.data, and tensorflow-datasets."""

import dataclasses
import io
import json
import multiprocessing
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jaxml import data
from jaxml.config import Data
from jaxml.data import ImageError, Index, decode, manifest, resident
from jaxml.data.images import open_images

SIDE = 16


def picture(seed: int, width: int = 60, height: int = 44) -> Image.Image:
    """An image that is smooth enough to change little in JPEG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def make_folder(root: Path) -> Data:
    """Three classes of four images: JPEG in colour and grey, PNG, BMP."""
    for c in range(3):
        (root / f"class{c}").mkdir(parents=True)
        for i, (mode, suffix) in enumerate((("RGB", "jpg"), ("L", "jpg"), ("RGB", "png"), ("RGB", "bmp"))):
            picture(4 * c + i, 60 + 3 * c, 44 + i).convert(mode).save(
                root / f"class{c}" / f"{i}.{suffix}", quality=95
            )
    return Data(source="folder", root=str(root), cache=str(root.parent / "cache"), stored_size=SIDE)


@pytest.fixture
def config(tmp_path):
    return make_folder(tmp_path / "pictures")


def with_boxes(index: Index) -> Index:
    boxes = np.array([[3.2 + i, 5.1, 20.4, 30.9 - i] for i in range(len(index.items))], np.float32)
    boxes[1] = (40, 30, 500, 500)  # beyond the edge
    boxes[2] = (59.5, 43.5, 0, 0)  # nothing left but a pixel
    return dataclasses.replace(index, boxes=boxes)


# Decoding


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10.0, 5.0, 20.0, 10.0), (10, 5, 30, 15)),
        ((10.4, 5.2, 20.0, 10.0), (10, 5, 31, 16)),
        ((29.9, 0.0, 145.1, 1.0), (29, 0, 175, 1)),  # 29.9 + 145.1 is over 175 in float32
    ],
)
def test_corners_are_the_pixels_that_cover_a_box(box, expected):
    assert decode.corners(np.array([box], np.float32)).tolist() == [list(expected)]


def test_a_crop_is_within_the_image_and_never_empty():
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    for corner, rows, columns in (
        ((2, 3, 6, 7), slice(3, 7), slice(2, 6)),
        ((-5, -5, 4, 4), slice(0, 4), slice(0, 4)),
        ((6, 8, 99, 99), slice(8, 12), slice(6, 10)),
        ((50, 50, 50, 50), slice(11, 12), slice(9, 10)),
    ):
        got = decode.decode(out.getvalue(), "x", np.array(corner), 4)
        part = Image.fromarray(image[rows, columns]).resize((4, 4), Image.Resampling.BILINEAR)
        assert np.array_equal(got, part), corner


def damaged() -> dict[str, bytes]:
    jpeg, png = io.BytesIO(), io.BytesIO()
    picture(0).save(jpeg, "JPEG")
    picture(0).save(png, "PNG")
    whole = jpeg.getvalue()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )
    deep = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.float32).reshape(8, 8)).save(deep, "TIFF")
    return {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "header only": whole[:20],
        "text": b"this is not an image",
        "gif": b"GIF89a" + bytes(40),
        "flipped png": png.getvalue()[:60] + b"\xff\x00\xff" + png.getvalue()[63:],
        "bomb": bomb,
        "32 bits": deep.getvalue(),
    }


@pytest.mark.parametrize("kind", damaged())
def test_damaged_images_give_one_error_with_their_name(kind):
    with pytest.raises(ImageError, match=r"image bird\.jpg"):
        decode.decode(damaged()[kind], "bird.jpg", None, SIDE)


def test_random_damage_gives_an_image_or_an_image_error():
    rng = np.random.default_rng(0)
    sound = []
    for kind in decode.FORMATS:
        sound.append(io.BytesIO())
        picture(1).save(sound[-1], kind)
    failed = 0
    for i in range(600):
        broken = bytearray(sound[i % len(sound)].getvalue())
        for _ in range(rng.integers(1, 8)):
            broken[rng.integers(len(broken) if i % 2 else 100)] = rng.integers(256)
        cut = bytes(broken[: rng.integers(1, len(broken) + 1) if i % 7 < 4 else None])
        try:
            assert decode.decode(cut, "x", None, SIDE).shape == (16, 16, 3)
        except ImageError:
            failed += 1
    assert 0 < failed < 600


def test_parallel_keeps_order_and_stops_at_the_first_error():
    assert list(decode.parallel(lambda i: i * i, 1000, "")) == [i * i for i in range(1000)]
    with pytest.raises(ZeroDivisionError):
        list(decode.parallel(lambda i: 1 / (i - 500), 1000, ""))


def test_both_paths_agree_on_pictures_as_people_have_them(tmp_path):
    """Turned, transparent, of 16 bits, in many formats, and in subfolders of their class."""
    from jaxml.data import streamed

    exif = Image.Exif()
    exif[0x0112] = 6
    clear = picture(5).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    grey = np.asarray(picture(6).convert("L")).astype(np.uint16) * 257
    files = {
        "a/turned.JPG": (picture(0), {"exif": exif}),
        "a/trip/turned.webp": (picture(1), {"exif": exif}),
        "a/trip/day 2/turned.tif": (picture(2), {"exif": exif}),
        "b/turned.png": (picture(3), {"exif": exif}),
        "b/palette.gif": (picture(4).convert("P"), {}),
        "b/clear.png": (clear, {}),
        "b/deep.tiff": (Image.fromarray(grey), {}),
        "b/print.jpeg": (picture(7).convert("CMYK"), {}),
    }
    for name, (image, options) in files.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)
    config = Data(
        source="folder", root=str(tmp_path / "pictures"), cache=str(tmp_path / "cache"), stored_size=SIDE
    )
    index = data.load(config)
    assert index.names == tuple(sorted(files))
    kept = resident.load(index, config)
    (streams,) = streamed.batches(index, config, [np.arange(len(files))])
    assert np.array_equal(kept, streams)
    for name, pixels in zip(index.names, kept, strict=True):
        image = files[name][0]
        image = image.transpose(Image.Transpose.ROTATE_270) if "turned" in name else image
        if name == "b/clear.png":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if name == "b/deep.tiff":
            image = Image.fromarray((grey // 257).astype(np.uint8))
        expected = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        exact = name.endswith(("png", "tif", "tiff", "gif")) and "clear" not in name
        np.testing.assert_allclose(pixels.astype(int), expected, atol=0 if exact else 25)


# The manifest


def test_every_file_is_hashed_and_a_new_one_accepted(config):
    first = data.load(config)
    assert len(set(first.hashes)) == 12
    picture(99).save(Path(config.root) / "class1" / "9.png")
    second = data.load(config)
    assert len(second.items) == 13
    assert set(first.hashes) < set(second.hashes)
    assert data.load(config).hashes == second.hashes


@pytest.mark.parametrize("when", ["before the first reading", "afterwards"])
@pytest.mark.parametrize("kind", ["cut", "flipped bit", "empty", "other image"])
def test_damaged_files_end_the_run_or_are_counted(config, kind, when):
    path = Path(config.root) / "class1" / "0.jpg"
    if when == "afterwards":
        data.load(config)
    elif kind in ("flipped bit", "other image"):
        pytest.skip("nothing can tell that it is not the intended image")
    content = path.read_bytes()
    times = path.stat().st_mtime_ns
    if kind == "flipped bit":
        content = content[:-40] + bytes([content[-40] ^ 4]) + content[-39:]
    elif kind == "cut":
        content = content[:200]
    elif kind == "empty":
        content = b""
    else:
        content = path.with_name("1.jpg").read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(times, times))
    with pytest.raises(ImageError, match=r"1 image\(s\) cannot be used: image class1/0\.jpg.*on_error skip"):
        data.load(config)
    with pytest.warns(
        UserWarning, match=r"1 image\(s\) left out, listed in .*: image class1/0\.jpg"
    ) as caught:
        index = data.load(dataclasses.replace(config, on_error="skip"))
    assert len(index.items) == len(index.labels) == 11
    assert np.bincount(index.labels).tolist() == [4, 3, 4]
    listing = str(caught[0].message).split("listed in ")[1].split(": ")[0]
    assert Path(listing).read_text().startswith("class1/0.jpg\t")


def test_a_missing_file_is_not_a_smaller_data_set(config):
    data.load(config)
    path = Path(config.root) / "class2" / "3.bmp"
    path.unlink()
    with pytest.raises(
        ImageError, match=r"class2/3\.bmp is no longer there.*delete (.*) to accept"
    ) as caught:
        data.load(config)
    Path(str(caught.value).split("delete ")[1].split(" to accept")[0]).unlink()
    assert len(data.load(config).items) == 11


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "3", '"a"', '{"a": 3}', '{"a": "b"}', '{"a": {}}', '{"a"', "[" * 100_000],
    ids=range(10),
)
def test_a_damaged_manifest_is_named_and_says_what_to_do(config, content):
    data.load(config)
    path = manifest.file(config)
    path.write_text(content)
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(path))} .*restore .*or delete it to take"
    ) as caught:
        data.load(config)
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_text() == content


def test_hostile_names_are_kept_in_the_manifest_and_shown_fit(config, tmp_path):
    folder = Path(config.root) / os.fsdecode(b"cl\xff\x1b[2J\n=ss")
    folder.mkdir()
    for i in range(2):
        picture(70 + i).save(folder / f"{i}.png")
    name = f"{folder.name}/1.png"
    first = data.load(config)
    assert name in first.names
    assert data.load(config).hashes == first.hashes  # read back to the same names
    (folder / "1.png").write_bytes(b"other")
    skipping = dataclasses.replace(config, on_error="skip")
    with pytest.raises(ImageError) as caught:
        data.load(config)
    with pytest.warns(UserWarning, match="left out") as warned:
        assert len(data.load(skipping).items) == 13
    (listed,) = manifest.file(config).with_suffix(".skipped.txt").read_text().splitlines()
    for said in (str(caught.value), str(warned[0].message), *listed.split("\t")):
        assert r"cl\udcff\x1b[2J\n=ss/1.png" in said
        assert said.isprintable()


def test_a_root_that_is_no_utf8_has_a_manifest(tmp_path):
    config = make_folder(tmp_path / os.fsdecode(b"pictures\xff"))
    assert data.load(config).hashes == data.load(config).hashes
    assert resident.load(data.load(config), config).shape == (12, SIDE, SIDE, 3)


def test_no_home_folder_is_one_clear_error(config, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it raises if there is no home folder
    with pytest.raises(ValueError, match=r"--data\.cache is '~/x'"):
        data.load(dataclasses.replace(config, cache="~/x"))
    with pytest.raises(ValueError, match=r"--data\.root is '~/x'"):
        data.load(dataclasses.replace(config, root="~/x"))


# The same image in several parts


def test_copies_of_an_image_across_the_split_are_counted(tmp_path):
    for c in range(5):
        (tmp_path / "pictures" / f"c{c}").mkdir(parents=True)
        for i in range(3):
            picture(3 * c + i).save(tmp_path / f"pictures/c{c}/{i}.png")
    config = Data(
        source="folder",
        root=str(tmp_path / "pictures"),
        cache=str(tmp_path / "cache"),
        stored_size=8,
        split="0-1/2-2/3-4",
    )
    copy = (tmp_path / "pictures/c0/1.png").read_bytes()
    (tmp_path / "pictures/c1/9.png").write_bytes(copy)  # in the same part: nothing to warn of
    open_images(config)
    (tmp_path / "pictures/c3/9.png").write_bytes(copy)
    (tmp_path / "pictures/c4/8.png").write_bytes((tmp_path / "pictures/c2/0.png").read_bytes())
    message = r"2 image\(s\) are byte for byte .* such as c0/1\.png \(train\) and c3/9\.png \(test\)"
    with pytest.warns(UserWarning, match=message):
        open_images(config)


# Decoded arrays on disk


def test_resident_pixels_are_those_decoded_one_by_one(config):
    index = with_boxes(data.load(config))
    for crop in (True, False):
        pixels = resident.load(index, dataclasses.replace(config, crop_to_box=crop))
        assert isinstance(pixels, np.memmap)
        assert not pixels.flags.writeable
        corners = decode.corners(index.boxes) if crop else [None] * 12
        for row, item, name, corner in zip(pixels, index.items, index.names, corners, strict=True):
            assert np.array_equal(row, decode.decode(item, name, corner, SIDE))


def test_decoded_once_and_again_only_if_something_changed(config, monkeypatch):
    calls = []
    original = resident.decode_all
    monkeypatch.setattr(resident, "decode_all", lambda *a, **k: calls.append(1) or original(*a, **k))
    index = with_boxes(data.load(config))
    resident.load(index, config)
    resident.load(index, config)
    assert len(calls) == 1
    resident.load(index, dataclasses.replace(config, stored_size=8))
    assert len(calls) == 2
    moved = dataclasses.replace(index, boxes=index.boxes + 1)
    resident.load(moved, config)
    assert len(calls) == 3
    resident.load(moved, dataclasses.replace(config, crop_to_box=False))
    resident.load(index, dataclasses.replace(config, crop_to_box=False))
    assert len(calls) == 4
    resident.load(index.take(np.arange(5)), config)
    assert len(calls) == 5
    Path(index.items[0]).write_bytes(Path(index.items[4]).read_bytes())
    resident.load(dataclasses.replace(index, hashes=()), config)
    assert len(calls) == 6


def test_what_is_not_kept_is_decoded_when_it_is_asked_for(config, monkeypatch):
    index = with_boxes(data.load(config))
    whole = np.array(resident.load(index, config))
    part = resident.Pixels(index, config, np.array([1, 4, 5]))
    monkeypatch.setattr(resident, "decode_all", None)
    batches = [np.array([5, 0, 1, 7, 0]), np.array([4]), np.array([], int)]
    for rows, pixels in zip(batches, part.read(batches), strict=True):
        assert np.array_equal(pixels, whole[rows])
    Path(index.items[7]).write_bytes(Path(index.items[4]).read_bytes())
    with pytest.raises(ImageError, match="has changed since"):
        next(part.read([np.array([1, 7])]))


def test_every_process_must_list_the_same_images(config, monkeypatch):
    monkeypatch.setattr(manifest.distributed, "everyones", lambda own: [*own, "digest of another list"])
    with pytest.raises(ImageError, match="has other images on one machine than on another"):
        data.load(config)
    assert not manifest.file(config).exists()


@pytest.mark.parametrize("damage", ["bit", "cut", "no manifest", "no array"])
def test_a_damaged_cache_is_noticed_and_made_again(config, damage):
    index = data.load(config)
    before = np.array(resident.load(index, config))
    (array,) = Path(config.cache).glob("*/images.npy")
    if damage == "bit":
        content = bytearray(array.read_bytes())
        content[-1000] ^= 1
        array.write_bytes(content)
    elif damage == "cut":
        array.write_bytes(array.read_bytes()[:-1])
    else:
        (array if damage == "no array" else array.with_name("manifest.json")).unlink()
    with pytest.warns(UserWarning, match="damaged and are decoded again"):
        assert np.array_equal(resident.load(index, config), before)
    assert np.array_equal(resident.load(index, config), before)


def test_a_corrupt_image_leaves_no_cache_behind(config):
    index = data.load(config)
    Path(index.items[7]).write_bytes(b"nonsense")
    with pytest.raises(ImageError, match=index.names[7]):
        resident.load(dataclasses.replace(index, hashes=()), config)
    assert not list(Path(config.cache).glob("*/"))


def test_nothing_of_the_users_in_the_cache_is_touched(config):
    cache = Path(config.cache)
    for name in ("part-1/thesis.txt", "part-abc/damaged/2", "jaxml-part-mine/3", "folder-16px-0/images.npy"):
        (cache / name).parent.mkdir(parents=True)
        (cache / name).write_text("years of work")
    for path in (*cache.rglob("*"), cache):
        os.utime(path, (0, 0))
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    index = data.load(config)
    resident.load(index, config)
    assert before.items() <= {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}.items()


@pytest.mark.parametrize("content", ["thesis.txt", "images.npy"])
def test_a_folder_of_the_users_in_the_place_of_the_cache_is_left_alone(config, content):
    index = data.load(config)
    resident.load(index, config)
    (made,) = Path(config.cache).glob("folder-*/")
    for path in made.iterdir():
        path.unlink()
    (made / content).write_text("years of work")
    with pytest.raises(OSError, match=r"folder-16px-.* holds no decoded images.*another --data\.cache"):
        resident.load(index, config)
    assert [path.read_text() for path in made.iterdir()] == ["years of work"]


def test_replacing_a_damaged_cache_keeps_what_else_is_in_it(config):
    index = data.load(config)
    before = np.array(resident.load(index, config))
    (made,) = Path(config.cache).glob("folder-*/")
    (made / "notes.txt").write_text("mine")
    (made / "images.npy").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged and are decoded again"):
        assert np.array_equal(resident.load(index, config), before)
    assert (made / "notes.txt").read_text() == "mine"
    assert not list(Path(config.cache).glob("jaxml-part-*"))


def test_the_cache_follows_the_umask(config):
    before = os.umask(0o027)
    try:
        resident.load(data.load(config), config)
    finally:
        os.umask(before)
    (made,) = Path(config.cache).glob("folder-*/")
    assert made.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {0o640}


def test_an_image_that_changes_before_it_is_decoded_is_noticed(config):
    index = data.load(config)
    Path(index.items[5]).write_bytes(Path(index.items[4]).read_bytes())
    with pytest.raises(
        ImageError, match=rf"image {index.names[5]} has changed since this data set was opened"
    ):
        resident.load(index, config)
    assert not list(Path(config.cache).glob("*/"))


def test_a_full_disk_is_noticed_before_decoding(config, monkeypatch):
    index = data.load(config)
    monkeypatch.setattr(resident.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(OSError, match=r"0\.00 GB free.*--data\.input tf_data"):
        resident.load(index, config)


@pytest.mark.parametrize(
    ("stats", "ram", "place"),
    [
        ({"bytes_limit": 48_000_000, "bytes_in_use": 12_000_000}, 0, "GPU 1 has 0.04 GB"),
        (None, 72_000_000, "each of 2 CPU"),
    ],
)
def test_what_does_not_fit_on_a_device_is_refused_with_the_numbers(config, monkeypatch, stats, ram, place):
    roomy = SimpleNamespace(memory_stats=lambda: stats and {"bytes_limit": 10**9, "bytes_in_use": 0})

    class Device(SimpleNamespace):
        def __str__(self):
            return "GPU 1"

    devices = [roomy, Device(memory_stats=lambda: stats)]
    monkeypatch.setattr(resident, "host_memory", lambda: ram)
    config = dataclasses.replace(config, stored_size=1000)  # 12 images take 36 MB, all that is free
    resident.check_fits(24, config, devices)
    resident.check_fits(48, config, devices, processes=2)
    config = dataclasses.replace(config, stored_size=1001)
    with pytest.raises(
        ValueError,
        match=rf"24 images to learn from, of 1001 x 1001 .*0\.04 GB on each device, but {place}.*--data\.input tf_data",
    ):
        resident.check_fits(24, config, devices)
    with pytest.raises(ValueError, match=r"--data\.input tf_data"):
        open_images(dataclasses.replace(config, stored_size=3000, split="0-0/1-1/2-2"), devices)
    assert not list(Path(config.cache).glob("*/")), "decoded before it was refused"


def test_host_memory_is_that_of_this_machine():
    assert 10**8 < resident.host_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _load(config: Data) -> int:
    return int(np.sum(resident.load(data.load(config), config), dtype=np.int64))


def test_two_processes_at_once_get_whole_arrays(tmp_path):
    config = make_folder(tmp_path / "pictures")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        sums = pool.map(_load, [config] * 6, chunksize=1)
    assert len(set(sums)) == 1
    assert sums[0] == _load(config)
    assert not list(Path(config.cache).glob("jaxml-part-*"))
    json.loads(next(Path(config.cache).glob("*/manifest.json")).read_text())


def test_the_resident_path_loads_neither_tensorflow_nor_flax_nor_sklearn(config):
    code = (
        "import sys; from jaxml import data; from jaxml.config import Data; from jaxml.data import resident\n"
        f"c = {config!r}\n"
        "resident.load(data.load(c), c)\n"
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'flax', 'sklearn') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
