"""The decoder with odd and hostile files: Pillow's pixels, or one ImageError that names the file, within limits."""

import io
import os
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.stress import pictures
from experiments.stress.corpus import drawn, encoded
from experiments.stress.damage import bmp, chunk, jpeg_of_scans, jpeg_with_tags, mutate, png, segment
from jaxml import data
from jaxml.config import Data
from jaxml.data import ImageError, decode, formats

SIDE = 16
JPEG = encoded(drawn(), "JPEG")


def by_pillow(content, turn=None):
    """Pillow's pixels; None where it refuses the file."""
    try:
        return pictures.by_pillow(content, SIDE, turn)
    except Exception:
        return None


# Valid files


def sound():
    two = encoded(drawn(), "JPEG") + encoded(drawn("L"), "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "plain", JPEG
    yield "turned", encoded(drawn(), "JPEG", exif=exif)
    yield "grey", encoded(drawn("L"), "JPEG")
    yield "cmyk", encoded(drawn("CMYK"), "JPEG")
    yield "progressive cmyk", encoded(drawn("CMYK"), "JPEG", progressive=True)
    yield "colours kept as RGB", encoded(drawn(), "JPEG", keep_rgb=True)
    yield "progressive", encoded(drawn(), "JPEG", progressive=True, subsampling=0)
    yield "restarts", encoded(drawn(), "JPEG", restart_marker_blocks=1)
    yield "profile", encoded(drawn(), "JPEG", icc_profile=bytes(200_000), comment=b"\xff\xda" * 9999)
    yield "second picture", two
    yield "fill bytes", JPEG[:2] + b"\xff" * 999 + JPEG[2:]
    yield "rubbish after", JPEG + b"\xff\xda\0\1" * 999
    yield "palette", encoded(drawn("P"), "PNG", transparency=7)
    yield "two colours", encoded(drawn("1"), "PNG")
    yield "alpha", encoded(drawn("RGBA"), "PNG")
    yield "text", encoded(drawn(), "PNG", exif=exif, icc_profile=bytes(999))
    yield "animated", encoded(drawn(), "PNG", save_all=True, append_images=[drawn().rotate(90)])
    yield "palette bmp", encoded(drawn("P"), "BMP")
    yield "one-bit bmp", encoded(drawn("1"), "BMP")
    for turn in range(1, 9):
        exif[0x0112] = turn
        for name in ("JPEG", "PNG", "WEBP", "TIFF"):
            options = {"lossless": True} if name == "WEBP" else {}
            yield f"turned {turn} {name}", encoded(drawn(), name, exif=exif, **options)
    yield "lossy webp", encoded(drawn(), "WEBP", quality=80)
    yield "transparent webp", encoded(faded(), "WEBP", lossless=True)
    yield "animated webp", encoded(drawn(), "WEBP", save_all=True, append_images=[drawn().rotate(90)])
    yield "gif", encoded(drawn("P"), "GIF")
    yield "animated gif", encoded(drawn("P"), "GIF", save_all=True, append_images=[drawn("P").rotate(90)])
    yield "transparent gif", encoded(drawn("P"), "GIF", transparency=7)
    yield "tiff", encoded(drawn(), "TIFF")
    yield "packed tiff", encoded(drawn(), "TIFF", compression="tiff_lzw")
    yield "fax", encoded(drawn("1"), "TIFF", compression="group4")
    yield "cmyk tiff", encoded(drawn("CMYK"), "TIFF", compression="tiff_deflate")
    yield "tiff of pages", encoded(drawn(), "TIFF", save_all=True, append_images=[drawn().rotate(90)])
    yield "transparent", encoded(faded(), "PNG")
    yield "grey transparent", encoded(faded().convert("LA"), "PNG")
    yield "transparent colour", encoded(drawn(), "PNG", transparency=drawn().getpixel((3, 3)))
    yield "16-bit png", encoded(Image.fromarray(deep()), "PNG")
    yield "16-bit tiff", encoded(Image.fromarray(deep()), "TIFF")


def faded():
    """A picture that becomes transparent from left to right."""
    image = drawn("RGBA")
    image.putalpha(Image.linear_gradient("L").rotate(90).resize(image.size))
    return image


def deep():
    """Grey values of 16 bits whose lower 8 are not the upper."""
    grey = np.asarray(drawn("L")).astype(np.uint16)
    return grey * 256 + (grey * 7) % 256


SOUND = dict(sound())


@pytest.mark.parametrize("kind", SOUND)
def test_what_is_left_out_does_not_change_pixels(kind):
    expected = by_pillow(SOUND[kind])
    assert np.ptp(expected.astype(int)) > 50
    found = decode.decode(SOUND[kind], "x", None, SIDE)
    if (
        "transparent" in kind or kind == "palette"
    ):  # there the reference lays the picture on white before it is resized
        np.testing.assert_allclose(found.astype(int), expected, atol=2)
    else:
        assert np.array_equal(found, expected)
    full = np.asarray(decode.open_image(SOUND[kind], "x"))
    assert full.shape == (*decode.size(SOUND[kind], "x")[::-1], 3)


def test_every_orientation_is_turned_upright():
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: picture.transpose(1, 0, 2)[::-1],
        7: picture.transpose(1, 0, 2)[::-1, ::-1],
        8: picture.transpose(1, 0, 2)[:, ::-1],
    }
    for turn, pixels in stored.items():
        for order in ("little", "big"):
            for name in ("PNG", "WEBP", "TIFF"):
                exif = Image.Exif()
                exif.endian = {"little": "<", "big": ">"}[order]
                exif[0x0112] = turn
                options = {"lossless": True} if name == "WEBP" else {}
                content = encoded(Image.fromarray(np.ascontiguousarray(pixels)), name, exif=exif, **options)
                assert np.array_equal(np.asarray(decode.open_image(content, "x")), picture), (turn, name)
                assert decode.size(content, "x") == (6, 4)
                cut = np.asarray(decode.open_image(content, "x", np.array([1, 2, 4, 4])))
                assert np.array_equal(cut, picture[2:4, 1:4]), "a box is one of the upright picture"


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_orientations_that_do_not_exist_turn_nothing(value):
    exif = Image.Exif()
    exif[0x0112] = value
    turned = encoded(drawn(), "JPEG", exif=exif)
    assert np.array_equal(decode.decode(turned, "x", None, SIDE), decode.decode(JPEG, "x", None, SIDE))


def test_damaged_exif_turns_or_does_nothing():
    contents = []
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        contents.append(encoded(drawn(), "JPEG", exif=exif))
    possible = [decode.decode(content, "x", None, SIDE).tobytes() for content in contents]
    assert len(set(possible)) == 8
    content, rng = contents[5], np.random.default_rng(0)
    begin = content.index(b"Exif")
    found = []
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(begin, begin + 32, 3):
            damaged[place] = rng.integers(256)
        found.append(possible.index(decode.decode(bytes(damaged), "x", None, SIDE).tobytes()))
    assert {0, 5} <= set(found)


def test_white_lies_behind_what_is_transparent():
    clear = Image.new("RGBA", (8, 8), (200, 10, 10, 0))
    for name in ("PNG", "WEBP"):
        assert (decode.decode(encoded(clear, name), "x", None, SIDE) == 255).all()


def test_heic_is_read_upright():
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    content = encoded(drawn(width=64, height=48), "HEIF", quality=-1)
    expected = np.asarray(drawn(width=64, height=48).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    found = decode.decode(content, "x.heic", None, SIDE)
    np.testing.assert_allclose(found.astype(int), expected, atol=4)
    assert decode.size(content, "x") == (64, 48)
    with pytest.raises(ImageError, match=r"image x\.heic cannot be decoded"):
        decode.decode(content[: len(content) // 2], "x.heic", None, SIDE)


def test_heic_without_its_library_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    formats._reads_heif.cache_clear()
    try:
        with pytest.raises(
            ImageError, match=r"image x\.heic is in the format HEIC: `pip install jaxml\[heic\]`"
        ):
            decode.decode(b"\0\0\0\x1cftypheic" + bytes(99), "x.heic", None, SIDE)
    finally:
        formats._reads_heif.cache_clear()


def test_other_formats_say_what_to_do():
    with pytest.raises(
        ImageError, match=r"image notes\.txt cannot be decoded as JPEG, .* Convert it to one of these, or"
    ):
        decode.decode(b"no picture", "notes.txt", None, SIDE)
    with pytest.raises(ImageError, match=r"has over 16 bits per channel \(F\); convert it to 8 bits"):
        decode.decode(encoded(drawn("F"), "TIFF"), "x", None, SIDE)


def test_a_damaged_file_has_pillows_pixels_or_is_refused():
    rng, both, refused = np.random.default_rng(1), 0, 0
    for i, content in enumerate([*SOUND.values()] * 30):
        damaged = mutate(content, rng)
        try:
            found = decode.decode(damaged, f"{i}.jpg", None, SIDE)
        except ImageError as error:
            refused += f"image {i}.jpg " in str(error)
            continue
        if (expected := by_pillow(damaged)) is not None:
            # Of transparent pictures the reference lays the whole one on white, before it is resized.
            atol = 2 if formats.transparent(Image.open(io.BytesIO(damaged))) else 0
            # Pillow reads damaged EXIF in other ways, but there is no picture that nobody could have meant.
            possible = [expected, *(by_pillow(damaged, turn) for turn in range(1, 9) if b"Exif" in damaged)]
            assert any(np.abs(found.astype(int) - other).max() <= atol for other in possible), i
            both += 1
    assert both > 100
    assert refused > 100
    assert both + refused > 500, "an error without the name"


# Whatever a decoder raises


def test_a_palette_image_without_a_palette_is_an_image_error():
    content = png(1, 1, bytes(2), colour=3, before=chunk(b"tRNS", b"\0"))
    assert len(content) == 80
    with pytest.raises(ImageError, match=r"image bird\.png cannot be decoded .*palette is missing"):
        decode.decode(content, "bird.png", None, SIDE)


@pytest.mark.parametrize(
    "raised", [AssertionError, RecursionError, MemoryError, KeyError, NotImplementedError]
)
@pytest.mark.parametrize("where", ["open", "load", "resize"])
def test_any_exception_of_a_decoder_is_an_image_error(monkeypatch, raised, where):
    def fail(*args, **kwargs):
        raise raised

    target = {"open": Image, "load": Image.Image, "resize": Image.Image}[where]
    monkeypatch.setattr(target, where, fail)
    with pytest.raises(ImageError, match=r"image bird\.jpg cannot be decoded") as caught:
        decode.decode(JPEG, "bird.jpg", None, SIDE)
    assert ("memory ran out" in str(caught.value)) == (raised is MemoryError)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_interruptions_pass(monkeypatch, raised):
    def fail(*args, **kwargs):
        raise raised

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(raised):
        decode.decode(JPEG, "bird.jpg", None, SIDE)


def test_a_hostile_image_does_not_stop_skipping(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "0.jpg").write_bytes(JPEG + name.encode())
    hostile = png(1, 1, bytes(2), colour=3, before=chunk(b"tRNS", b"\0"))
    (tmp_path / "data/a/1.png").write_bytes(hostile)
    os.mkfifo(tmp_path / "data/b/2.png")
    (tmp_path / "data/c/3.png").symlink_to(tmp_path / "nothing")
    config = Data(
        source="folder", root=str(tmp_path / "data"), cache=str(tmp_path / "cache"), on_error="skip"
    )
    with pytest.warns(UserWarning, match=r"3 image\(s\) left out"):
        assert data.load(config).names == ("a/0.jpg", "b/0.jpg", "c/0.jpg")
    listing = next((tmp_path / "cache").glob("*.skipped.txt")).read_text().splitlines()
    assert [line.split("\t")[0] for line in listing] == ["a/1.png", "b/2.png", "c/3.png"]


# Things that are not regular files


# At most 1 GB, so that a failing test does not take the machine with it.
READ = """import resource, sys
from jaxml.data import decode
resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))
try:
    decode.read(sys.argv[1], "bird.jpg")
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "kind", ["pipe", "link to a pipe", "/dev/zero", "/dev/urandom", "folder", "sparse", "/proc"]
)
def test_only_regular_files_of_limited_size_are_read(tmp_path, kind):
    path = tmp_path / "bird.jpg"
    if kind in ("pipe", "link to a pipe"):
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
        path = tmp_path / "pipe" if kind == "pipe" else path
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with open(path, "wb") as file:
            file.truncate(30 * 10**9)
    else:
        path.symlink_to("/proc/self/environ" if kind == "/proc" else kind)
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    wrong = {
        "sparse": "image bird.jpg has 30,000,000,000 bytes, beyond the limit of 100,000,000",
        "/proc": "image bird.jpg was written to while it was read",
    }.get(kind, "image bird.jpg is not a regular file")
    assert done.stdout.startswith(wrong), done.stdout + done.stderr[-500:]
    assert len(done.stdout.splitlines()) == 1


def test_a_link_to_a_regular_file_is_read(tmp_path):
    (tmp_path / "picture").write_bytes(JPEG)
    (tmp_path / "link").symlink_to(tmp_path / "picture")
    assert decode.read(str(tmp_path / "link"), "x") == JPEG
    with pytest.raises(ImageError, match=r"cannot read image a\\x00b: .*null"):
        decode.read("a\0b", "x")


# Limits


def refused(content, message):
    begin = time.thread_time()
    with pytest.raises(ImageError, match=rf"image bird has {message}"):
        decode.decode(content, "bird", None, SIDE)
    assert time.thread_time() - begin < 1, "refused too late"


def test_scans_are_counted_before_they_are_decoded():
    assert decode.decode(jpeg_of_scans(2000, 2000, 30), "x", None, SIDE).shape == (SIDE, SIDE, 3)
    refused(jpeg_of_scans(2000, 2000, 3000), r"3,000 scans of 4,000,000 pixels")


def test_scans_of_thumbnails_and_later_pictures_do_not_count():
    inner = jpeg_of_scans(2000, 2000, 200)
    content = JPEG[:2] + segment(0xE1, b"Exif\0\0" + inner[:60_000]) + JPEG[2:] + inner * 20
    assert np.array_equal(decode.decode(content, "x", None, SIDE), by_pillow(JPEG))


@pytest.mark.parametrize("shape", [(1, 3_000_000), (3_000_000, 1)])
def test_a_side_is_limited(shape):
    width, height = shape
    refused(png(width, height, bytes(height * (1 + 3 * width))), r"a side of 3,000,000 pixels")


def test_memory_is_limited_by_what_the_decoder_will_take():
    even = Image.new("RGB", (6000, 5000))  # 30 million pixels
    for content in (encoded(even, "JPEG"), encoded(even, "JPEG", progressive=True), encoded(even, "BMP")):
        assert decode.size(content, "x") == (6000, 5000)
    refused(png(9000, 9000, b""), r"9,000 x 9,000 pixels, which take over 450 MB")
    refused(png(6000, 5000, b"", depth=16, colour=6), "6,000 x 5,000 pixels")
    refused(bmp(8000, 8000, b""), "8,000 x 8,000 pixels")


def test_a_progressive_image_takes_more_memory():
    at = JPEG.index(b"\xff\xc0") + 5
    sized = JPEG[:at] + (5000).to_bytes(2) + (10_000).to_bytes(2) + JPEG[at + 4 :]  # 50 million pixels
    assert decode.size(sized, "x") == (10_000, 5000)
    refused(sized.replace(b"\xff\xc0", b"\xff\xc2"), "10,000 x 5,000 pixels")
    # Components in scans of their own have to be kept as well.
    scan = sized.index(b"\xff\xda") + 4
    refused(sized[:scan] + b"\1\1\0\0\x3f\0" + sized[scan + 10 :], "10,000 x 5,000 pixels")


def test_run_lengths_are_limited():
    options = {"bits": 8, "compression": 1, "palette": bytes(range(256)) * 4}
    runs = bmp(4, 2, b"\4\x07\0\0\4\x09\0\1", **options)
    assert np.array_equal(decode.decode(runs, "x", None, SIDE), by_pillow(runs))
    refused(bmp(50_000, 50, b"\1\1\0\0", **options), "run-length encoding")


def test_the_size_of_encoded_bytes_is_limited(monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES", len(JPEG) - 1)
    refused(JPEG, rf"{len(JPEG)} bytes, beyond the limit of {len(JPEG) - 1}")


def test_a_decoder_that_takes_too_long_is_stopped(monkeypatch):
    monkeypatch.setattr(decode, "MAX_SECONDS", 0.0)
    with pytest.raises(ImageError, match=r"image bird cannot be decoded .* takes over 0 s"):
        decode.decode(JPEG, "bird", None, SIDE)


PROFILE = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20), 9))


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        (png(1, 1, bytes(4), before=PROFILE * 500), png(1, 1, bytes(4))),
        (png(1, 1, bytes(4), before=chunk(b"zTXt", b"a\0\0" + PROFILE[11:-4]) * 70), png(1, 1, bytes(4))),
        (jpeg_with_tags(JPEG, 4000, 1_000_000), JPEG),
        (JPEG[:2] + b"\xff" * 2_000_000 + JPEG[2:], JPEG),
    ],
    ids=["profiles", "texts", "tags", "filling"],
)
def test_what_pixels_do_not_depend_on_is_not_unpacked(content, plain):
    begin = time.thread_time()
    assert np.array_equal(decode.decode(content, "x", None, SIDE), decode.decode(plain, "x", None, SIDE))
    assert time.thread_time() - begin < 0.5


@pytest.mark.parametrize(
    "content",
    [
        png(1, 1, bytes(4), before=chunk(b"abCd", b"") * 60_000),
        JPEG[:2] + b"\xff\xfe\0\2" * 60_000 + JPEG[2:],
    ],
    ids=["png", "jpeg"],
)
def test_the_number_of_parts_is_limited(content):
    with pytest.raises(ImageError, match=r"image x cannot be decoded .* has over 50,000"):
        decode.decode(content, "x", None, SIDE)


def test_arithmetic_coding_is_refused():
    with pytest.raises(ImageError, match="arithmetic coding is not supported"):
        decode.decode(JPEG.replace(b"\xff\xc0", b"\xff\xc9"), "x", None, SIDE)


def test_names_in_errors_are_fit_for_a_terminal():
    with pytest.raises(ImageError) as caught:
        decode.decode(b"", "a\x1b[2J\n\udcff.png", None, SIDE)
    assert r"image a\x1b[2J\n\udcff.png is empty" in str(caught.value)
