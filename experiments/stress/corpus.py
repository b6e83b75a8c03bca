"""Odd images for the stress suite and the tests: all formats of Pillow, rare and damaged ones, bombs, special files."""

from __future__ import annotations

import io
import os
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.stress.damage import bmp, chunk, jpeg_of_scans, jpeg_with_tags, png
from jaxml.data.decode import MAX_SIDE
from jaxml.data.formats import FORMATS

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")
Expected = bool | None
"""Whether an image must decode; if None, it must if Pillow decodes it."""


def drawn(mode: str = "RGB", width: int = 31, height: int = 22) -> Image.Image:
    """A smooth image in a mode of Pillow."""
    small = Image.fromarray(np.random.default_rng(7).integers(0, 256, (5, 6, 3), np.uint8))
    picture = small.resize((width, height), Image.Resampling.BICUBIC)
    if mode in ("LAB", "HSV", "YCbCr", "CMYK", "P", "1", "L", "RGBA", "RGBX"):
        return picture.convert(mode) if mode != "LAB" else Image.merge("LAB", picture.split())
    return (
        picture.convert("RGBA").convert(mode) if mode in ("LA", "PA") else picture.convert("L").convert(mode)
    )


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """An image as the bytes of a file."""
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def written_by_pillow() -> Iterator[tuple[str, bytes, Expected]]:
    """Images of every mode in every format that Pillow can write; formats that jaxml does not read must be refused."""
    Image.init()
    for kind in sorted(Image.SAVE):
        for mode in MODES:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    data = encoded(drawn(mode, 32, 32), kind)
            except Exception:  # the format has no such mode, or needs a program that is not installed
                continue
            read = kind in (*FORMATS, "MPO")
            # Pillow's TIFF has modes that it cannot make RGB, and of over 16 bits.
            left = mode in ("I", "F", "LAB", "HSV", "YCbCr") and kind in ("PNG", "TIFF")
            yield f"{kind}-{mode.replace(';', '')}", data, None if read and left else read


def unusual() -> Iterator[tuple[str, bytes, Expected]]:
    """Valid images of rare kinds, and damaged ones."""
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        yield f"turned-{turn}.jpg", encoded(drawn(), "JPEG", exif=exif), True
        yield f"turned-{turn}.png", encoded(drawn(), "PNG", exif=exif), True
    for subsampling in (0, 1, 2):
        yield (
            f"progressive-{subsampling}.jpg",
            encoded(drawn(), "JPEG", progressive=True, subsampling=subsampling),
            True,
        )
    yield "restarts.jpg", encoded(drawn(), "JPEG", restart_marker_blocks=1), True
    yield "profile.jpg", encoded(drawn(), "JPEG", icc_profile=bytes(200_000), comment=b"x" * 60_000), True
    yield "two-in-one.jpg", encoded(drawn(), "JPEG") + encoded(drawn("L"), "JPEG"), True
    yield "few-scans.jpg", jpeg_of_scans(33, 21, 12), True
    palette = drawn("P")
    yield "opaque-bytes.png", encoded(palette, "PNG", transparency=bytes(range(255, -1, -1))), True
    yield "one-transparent.png", encoded(palette, "PNG", transparency=3), True
    yield "transparent-colour.png", encoded(drawn(), "PNG", transparency=(1, 2, 3)), True
    yield (
        "animated.png",
        encoded(drawn(), "PNG", save_all=True, append_images=[drawn("L").convert("RGB")]),
        True,
    )
    for colour, channels in ((0, 1), (2, 3), (3, 1), (4, 2), (6, 4)):
        for depth in (1, 2, 4, 8, 16):
            lines = bytes([0, *range(0, 251, 10)]) * 7
            body = b"".join(lines[:1] + lines[1 : 1 + -(-3 * channels * depth // 8)] for _ in range(5))
            table = chunk(b"PLTE", bytes(range(3 * min(2**depth, 85)))) if colour == 3 else b""
            valid = depth == 8 or colour == 0 or (depth == 16 and colour != 3) or (depth < 8 and colour == 3)
            yield (
                f"depth-{depth}-{colour}.png",
                png(3, 5, body, depth=depth, colour=colour, before=table),
                valid,
            )
    # One pixel of the first pass, which completes an interlaced image of one pixel.
    yield "interlaced.png", png(1, 1, b"\0\1\2\3", interlace=1), True
    yield "no-palette.png", png(3, 5, bytes(20), colour=3), False
    yield (
        "transparent-without-palette.png",
        png(1, 1, bytes(2), colour=3, before=chunk(b"tRNS", b"\0")),
        False,
    )
    yield "short-palette.png", png(3, 5, b"\0\7\7\7" * 5, colour=3, before=chunk(b"PLTE", b"abc")), None
    yield "no-pixels.png", png(0, 5, b""), False
    yield "top-down.bmp", bmp(3, -2, bytes(range(24))), True
    yield "16-bits.bmp", bmp(4, 2, bytes(range(16)), bits=16), True
    yield "32-bits.bmp", bmp(2, 2, bytes(range(16)), bits=32), True
    runs = {"bits": 8, "compression": 1, "palette": bytes(range(256)) * 4}
    yield "runs.bmp", bmp(4, 2, b"\4\7\0\0\4\x09\0\1", **runs), True
    yield "jpeg-inside.bmp", bmp(4, 2, encoded(drawn(), "JPEG"), compression=4), False
    for kind in FORMATS:
        whole = encoded(drawn(), kind)
        for share in (0.02, 0.3, 0.9):
            yield f"cut-{share}-{kind}", whole[: int(share * len(whole))], False
        yield f"one-pixel-{kind}", encoded(drawn().resize((1, 1)), kind), True
        yield f"one-line-{kind}", encoded(drawn().resize((500, 1)), kind), True
        yield f"wrong-ending-{kind}.{'png' if kind == 'JPEG' else 'jpg'}", whole, True
        yield f"rubbish-after-{kind}", whole + b"\xff\xd8\xff\xda" * 999, True
    for name, data in (("empty", b""), ("zero", b"\0"), ("text", b"no picture"), ("jpeg", b"\xff\xd8\xff")):
        yield f"{name}.jpg", data, False


def bombs() -> Iterator[tuple[str, bytes, Expected]]:
    """Small files that take much time or memory to decode."""
    small = encoded(drawn(), "JPEG")
    yield "scans.jpg", jpeg_of_scans(8000, 6000, 10_000), False
    yield "scans-small.jpg", jpeg_of_scans(64, 64, 40_000), None
    yield "tags.jpg", jpeg_with_tags(small, 4000, 1_000_000), True
    yield "filled.jpg", small[:2] + b"\xff" * 3_000_000 + small[2:], True
    yield "segments.jpg", small[:2] + b"\xff\xfe\0\2" * 3_000_000 + small[2:], False
    yield "arithmetic.jpg", small.replace(b"\xff\xc0", b"\xff\xc9"), False
    size = small.index(b"\xff\xc0") + 5
    yield "claims-65535.jpg", small[:size] + b"\xff" * 4 + small[size + 4 :], False
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20), 9))
    yield "profiles.png", png(1, 1, bytes(4), before=profile * 2000), True
    yield (
        "texts.png",
        png(1, 1, bytes(4), before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20), 9)) * 60),
        True,
    )
    yield "chunks.png", png(1, 1, bytes(4), before=chunk(b"abCd", b"") * 300_000), False
    yield "pixels.png", png(30_000, 30_000, bytes(10_000)), False
    yield "tall.png", png(1, 20_000_000, bytes(80_000_000)), False
    yield "wide.png", png(20_000_000, 1, bytes(60_000_001)), False
    yield "claims-2^31.bmp", bmp(2**31 - 1, 2**31 - 1, b""), False
    yield "claims-much.bmp", bmp(8000, 6000, bytes(100)), False
    runs = {"bits": 8, "compression": 1, "palette": bytes(range(256)) * 4}
    yield "line.bmp", bmp(60_000_000, 1, b"\1\1\0\0", **runs), False
    yield "runs-many.bmp", bmp(8000, 6000, b"\1\1" * 10_000_000, **runs), False
    yield "runs-some.bmp", bmp(990, 990, b"\1\1" * 490_000, **runs), False


def large() -> Iterator[tuple[str, bytes, Expected]]:
    """The largest images that are read, and some that are slightly larger."""
    even = Image.new("RGB", (8192, 5464), (90, 30, 200))
    yield "45-megapixels.jpg", encoded(even, "JPEG"), True
    yield "37-megapixels-progressive.jpg", encoded(even.resize((6800, 5464)), "JPEG", progressive=True), True
    yield "45-megapixels.png", encoded(even, "PNG", compress_level=1), True
    yield "45-megapixels-alpha.png", encoded(even.convert("RGBA"), "PNG", compress_level=1), True
    yield "33-megapixels.bmp", encoded(even.resize((6100, 5464)), "BMP"), True
    yield "120-megabytes.bmp", encoded(even.resize((7400, 5464)), "BMP"), False
    yield "45-megapixels-cmyk.jpg", encoded(even.convert("CMYK"), "JPEG"), True
    yield "60-megapixels-cmyk.jpg", encoded(even.resize((11_000, 5464)).convert("CMYK"), "JPEG"), False
    yield "45-megapixels-in-13-scans.jpg", jpeg_of_scans(8192, 5464, 13), True
    yield "grey-80-megapixels.jpg", jpeg_of_scans(14_640, 5464, 7, refining=False), True
    yield "28-megapixels-16-bits.png", png(5200, 5300, bytes(5300 * (1 + 6 * 5200)), depth=16), True
    yield "sides.png", png(MAX_SIDE, 2, bytes(2 * (1 + 3 * MAX_SIDE))), True


def special(place: Path) -> Iterator[tuple[str, Expected]]:
    """Creates things in a folder that are not regular files, and links that do not lead to one."""
    os.mkfifo(place / "pipe.jpg")
    (place / "picture").write_bytes(encoded(drawn(), "PNG"))
    (place / "folder.jpg").mkdir()
    with open(place / "sparse.jpg", "wb") as file:
        file.truncate(30 * 10**9)
    targets = {
        "to-pipe.jpg": place / "pipe.jpg",
        "to-zero.jpg": "/dev/zero",
        "to-random.jpg": "/dev/urandom",
        "to-terminal.jpg": "/dev/tty",
        "to-nothing.jpg": place / "nothing",
        "to-itself.jpg": place / "to-itself.jpg",
        "to-folder.jpg": place / "folder.jpg",
        "to-process.jpg": "/proc/self/environ",
        "to-picture.jpg": place / "picture",
    }
    for name, target in targets.items():
        (place / name).symlink_to(target)
    yield from (
        (name, name == "to-picture.jpg") for name in ("pipe.jpg", "folder.jpg", "sparse.jpg", *targets)
    )


def corpus(place: Path, quick: bool) -> dict[str, Expected]:
    """Write all images into a folder; returns by file name whether each must decode."""
    place.mkdir(parents=True, exist_ok=True)
    found = dict(special(place))
    for source in (written_by_pillow, unusual, bombs, *(() if quick else (large,))):
        for name, data, expected in source():
            (place / name).write_bytes(data)
            found[name] = expected
    return found
