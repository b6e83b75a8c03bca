"""Decoding by Pillow: encoded image to uint8 pixels, cropped to its box, in parallel."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from jaxml.data.index import ImageError, Index

FORMATS = ("JPEG", "PNG", "BMP")
# What Pillow raises on damaged files; the warning only where warnings are errors.
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error, *BOMBS)
MAX_PIXELS = 64_000_000
T = TypeVar("T")


def read(item: str | bytes, name: str) -> bytes:
    """The encoded bytes of an item; ImageError names a file that cannot be read."""
    if isinstance(item, bytes):
        return item
    try:
        return Path(item).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read image {item}: {error.strerror}. Restore the file.") from error


def open_image(data: bytes, name: str) -> Image.Image:
    """Decode to an RGB image; ImageError names the image where that fails.

    Size is read from the header and refused beyond MAX_PIXELS before anything is decompressed.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(
                f"image {name} has {image.width} x {image.height} pixels, beyond the limit of {MAX_PIXELS:,}; "
                f"shrink it or remove it"
            )
        if image.mode.startswith(("I", "F")):
            raise ImageError(f"image {name} has over 8 bits per channel ({image.mode}); convert it to 8 bits")
        return image.convert("RGB")
    except ImageError:
        raise
    except DAMAGE as error:
        # Pillow names the buffer there, which says nothing.
        reason = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        what = "is empty" if not data else f"cannot be decoded as {', '.join(FORMATS)}{reason}"
        raise ImageError(f"image {name} {what}. Replace it by a sound copy.") from error


def corners(boxes: np.ndarray) -> np.ndarray:
    """Whole pixels that cover boxes [N, 4] (left, top, width, height): int32 [N, 4] left, top, right, bottom."""
    boxes = boxes.astype(np.float64)
    # A hundredth of a pixel is the rounding of the numbers, not a pixel to add.
    first, last = np.floor(boxes[:, :2] + 0.01), np.ceil(boxes[:, :2] + boxes[:, 2:] - 0.01)
    return np.concatenate([first, last], axis=1).astype(np.int32)


def decode(item: str | bytes, name: str, corner: np.ndarray | None, size: int) -> np.ndarray:
    """One image, cropped to `corner` (left, top, right, bottom) if given, resized: uint8 [size, size, 3].

    The crop ends at the image's edge and is never empty. Linear interpolation, antialiased.
    """
    image = open_image(read(item, name), name)
    if corner is not None:
        left, top, right, bottom = (int(v) for v in corner)
        left, top = min(max(left, 0), image.width - 1), min(max(top, 0), image.height - 1)
        right, bottom = min(max(right, left + 1), image.width), min(max(bottom, top + 1), image.height)
        image = image.crop((left, top, right, bottom))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def parallel(function: Callable[[int], T], count: int, title: str) -> Iterator[T]:
    """function(0), function(1), ... in order, computed by one thread per core, with a progress bar.

    Pillow and hashlib release Python's lock while they work. At most a few results wait at a time.
    """
    workers = os.cpu_count() or 1
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=count, desc=title, unit="image", leave=False, disable=None) as bar,
    ):
        waiting: deque = deque()
        try:
            for i in range(count):
                waiting.append(pool.submit(function, i))
                if len(waiting) >= 8 * workers:
                    yield waiting.popleft().result()
                    bar.update()
            while waiting:
                yield waiting.popleft().result()
                bar.update()
        finally:
            for future in waiting:
                future.cancel()


def decode_all(index: Index, *, size: int, crop_to_box: bool) -> Iterator[np.ndarray]:
    """All images in order, each uint8 [size, size, 3]; ImageError at the first that cannot be decoded."""
    crops = corners(index.boxes) if crop_to_box and index.boxes is not None else None

    def one(i: int) -> np.ndarray:
        return decode(index.items[i], index.names[i], None if crops is None else crops[i], size)

    return parallel(one, len(index.items), "decoding")
