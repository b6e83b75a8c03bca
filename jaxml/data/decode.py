"""Decoding by Pillow: encoded image to uint8 pixels, cropped to its box, in parallel."""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from jaxml.data.index import ImageError, Index

FORMATS = ("JPEG", "PNG", "BMP")
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
    # What Pillow raises on damaged files, found by flipping bits and cutting files short.
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        what = "is empty" if not data else f"cannot be decoded as {', '.join(FORMATS)}: {error}"
        raise ImageError(
            f"image {name} {what}. Replace it by a sound copy, or leave it out with --data.on_error skip."
        ) from error


def window(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Whole pixels that cover `box` (left, top, width, height), within the image: left, top, right, bottom."""
    left, top, w, h = (float(v) for v in box)
    x0, y0 = min(max(math.floor(left), 0), width - 1), min(max(math.floor(top), 0), height - 1)
    x1, y1 = min(max(math.ceil(left + w), x0 + 1), width), min(max(math.ceil(top + h), y0 + 1), height)
    return x0, y0, x1, y1


def decode(item: str | bytes, name: str, box: np.ndarray | None, size: int) -> np.ndarray:
    """One image, cropped to its box if given, resized (linear, antialiased): uint8 [size, size, 3]."""
    image = open_image(read(item, name), name)
    if box is not None:
        image = image.crop(window(box, image.width, image.height))
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
    boxes = index.boxes if crop_to_box else None

    def one(i: int) -> np.ndarray:
        return decode(index.items[i], index.names[i], None if boxes is None else boxes[i], size)

    return parallel(one, len(index.items), "decoding")
