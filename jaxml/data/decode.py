"""The one decoder, Pillow: encoded image to uint8 pixels, cropped to its box, within limits of size and time."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from tqdm import tqdm

from jaxml.data import essential
from jaxml.data.index import ImageError, Index
from jaxml.files import printable

FORMATS = ("JPEG", "PNG", "BMP")
MAX_BYTES = 100_000_000
"""Of a file."""
MAX_SIDE = 65_535
"""Pixels of a side, which is what JPEG allows; a line of millions of pixels takes gigabytes to resize."""
MAX_MEMORY = 450_000_000
"""Bytes that file, decoded image and its copy take together: 56 million pixels in colour, 45 million if progressive."""
MAX_SCANNED = 600_000_000
"""Pixels that a decoder goes over in all scans of a JPEG together: 13 scans of 45 million pixels."""
MAX_RUN_LENGTH = 1_000_000
"""Pixels, and bytes, of a run-length encoded BMP, which Pillow decodes in Python."""
MAX_SECONDS = 4.0
"""Time of its own that a thread may spend on one file. What the limits above let pass takes under 2 s here, so that
no sound image is refused on a slower machine; this one stops what nobody has thought of."""
T = TypeVar("T")


def read(item: str | bytes, name: str) -> bytes:
    """The encoded bytes of an item; ImageError names what cannot be read, is no regular file, or is too large."""
    if isinstance(item, bytes):
        _check_size(len(item), name)
        return item
    try:
        # Before it is opened too: that alone can make a device act.
        _check_regular(os.stat(item), name)
        # A pipe that has come in its place would otherwise be waited for.
        with open(os.open(item, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            _check_regular(status, name)
            _check_size(status.st_size, name)
            data = file.read(status.st_size + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot read image {printable(item)}: {reason}. Restore the file.") from error
    if len(data) != status.st_size:
        raise ImageError(f"image {printable(name)} was written to while it was read. Try again.")
    return data


def _check_regular(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"image {printable(name)} is no regular file. Replace it by a sound copy.")


def _check_size(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise ImageError(
            f"image {printable(name)} has {size:,} bytes, beyond the limit of {MAX_BYTES:,}. Shrink it."
        )


class _Timed(io.BytesIO):
    """Encoded bytes that can be read until the thread has used its time."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._end = time.thread_time() + MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._end:
            raise TimeoutError(f"it takes over {MAX_SECONDS:.0f} s")
        return super().read(size)


@contextmanager
def _named(data: bytes, name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes an ImageError with the name; interruptions are no Exception and pass."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        # Pillow names the buffer in one of them, and says nothing in another.
        reason = "memory ran out" if isinstance(error, MemoryError) else printable(error)
        reason = f": {reason}" if reason and not isinstance(error, UnidentifiedImageError) else ""
        what = f"cannot be decoded as {', '.join(FORMATS)}{reason}" if data else "is empty"
        raise ImageError(f"image {printable(name)} {what}. Replace it by a sound copy.") from error


def _opened(data: bytes, name: str) -> ImageFile.ImageFile:
    """The image, not yet decompressed, once its header has been found within the limits."""
    scans, buffered, copies = 1, False, 2
    if data.startswith(b"\xff\xd8"):
        data, scans, buffered = essential.jpeg(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        data = essential.png(data)
    else:
        copies = 1
    image = Image.open(_Timed(data), formats=FORMATS)
    if not image.tile:
        raise ValueError("it has no pixels")
    if image.mode.startswith(("I", "F")):
        raise ImageError(
            f"image {printable(name)} has over 8 bits per channel ({image.mode}); convert it to 8 bits"
        )
    if wrong := _beyond_limits(image, copies * len(data), scans, buffered):
        raise ImageError(f"image {printable(name)} has {wrong}. Shrink it, save it anew, or remove it.")
    return image


def _beyond_limits(image: ImageFile.ImageFile, encoded: int, scans: int, buffered: bool) -> str:
    """What an image of `encoded` bytes has too much of; empty if nothing."""
    pixels, bands = image.width * image.height, len(image.getbands())
    if max(image.size) > MAX_SIDE:
        return f"a side of {max(image.size):,} pixels, beyond the limit of {MAX_SIDE:,}"
    # Pillow keeps four bytes of a pixel, one of a pixel with one channel. A second image is made by converting or
    # cropping; before that, a buffered JPEG has two bytes for each coefficient. Channels of 16 bits, of which only 8
    # are kept, take twice the time.
    memory = encoded + pixels * ((1 if bands == 1 else 4) + max(4, 2 * bands * buffered))
    codec, _, _, options = image.tile[0]
    if memory * (1 + (";16B" in str(options))) > MAX_MEMORY:
        return (
            f"{image.width:,} x {image.height:,} pixels, which take over {MAX_MEMORY / 1e6:,.0f} MB to decode"
        )
    if scans * pixels > MAX_SCANNED:
        return f"{scans:,} scans of {pixels:,} pixels, beyond the limit of {MAX_SCANNED:,} together"
    if codec == "bmp_rle" and max(pixels, encoded) > MAX_RUN_LENGTH:
        return f"run-length encoding, which is read up to {MAX_RUN_LENGTH:,} pixels and bytes"
    return ""


def size(data: bytes, name: str) -> tuple[int, int]:
    """Width and height in pixels, from the header of an encoded image; ImageError as `open_image` raises it."""
    with _named(data, name):
        return _opened(data, name).size


def open_image(data: bytes, name: str, corner: np.ndarray | None = None) -> Image.Image:
    """Decode to an RGB image, cropped to `corner` (left, top, right, bottom) if given; the crop is never empty.

    Transparency, profiles and the turns that EXIF asks for are ignored. ImageError names an image that cannot be
    decoded, has over 8 bits per channel, or is beyond the limits, which are looked up in the header before anything
    is decompressed.
    """
    with _named(data, name):
        opened = _opened(data, name)
        opened.load()
        image: Image.Image = opened
        if corner is not None:
            left, top, right, bottom = (int(v) for v in corner)
            left, top = min(max(left, 0), image.width - 1), min(max(top, 0), image.height - 1)
            right, bottom = min(max(right, left + 1), image.width), min(max(bottom, top + 1), image.height)
            image = image.crop((left, top, right, bottom))
        return image if image.mode == "RGB" else image.convert("RGB")


def corners(boxes: np.ndarray) -> np.ndarray:
    """Whole pixels that cover boxes [N, 4] (left, top, width, height): int32 [N, 4] left, top, right, bottom."""
    boxes = boxes.astype(np.float64)
    # A hundredth of a pixel is the rounding of the numbers, not a pixel to add.
    first, last = np.floor(boxes[:, :2] + 0.01), np.ceil(boxes[:, :2] + boxes[:, 2:] - 0.01)
    return np.concatenate([first, last], axis=1).astype(np.int32)


def decode(item: str | bytes, name: str, corner: np.ndarray | None, size: int) -> np.ndarray:
    """One image, cropped to `corner` (left, top, right, bottom) if given, resized: uint8 [size, size, 3].

    Linear interpolation, antialiased. Raises ImageError as `read` and `open_image` do.
    """
    data = read(item, name)
    with _named(data, name):
        image = open_image(data, name, corner)
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


class Decoder:
    """Pixels of an index's images by row: what every input path calls.

    crop_to_box: crop each to its box, where the index has boxes.
    """

    def __init__(self, index: Index, *, size: int, crop_to_box: bool) -> None:
        self._index, self._size = index, size
        self._crops = corners(index.boxes) if crop_to_box and index.boxes is not None else None

    def __call__(self, row: int) -> np.ndarray:
        """The image uint8 [size, size, 3]; ImageError if it cannot be decoded or its file is no longer what it was."""
        index, name = self._index, self._index.names[row]
        data = read(index.items[row], name)
        # Items that are no files cannot change, and their hashes may be of something else.
        known = index.hashes[row] if index.hashes and isinstance(index.items[row], str) else ""
        if known and hashlib.sha256(data).hexdigest() != known:
            raise ImageError(
                f"image {printable(name)} has changed since this data set was opened. Restore it."
            )
        return decode(data, name, None if self._crops is None else self._crops[row], self._size)


def decode_all(index: Index, *, size: int, crop_to_box: bool) -> Iterator[np.ndarray]:
    """All images in order, each uint8 [size, size, 3]; ImageError at the first that cannot be decoded."""
    return parallel(Decoder(index, size=size, crop_to_box=crop_to_box), len(index.items), "decoding")


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
