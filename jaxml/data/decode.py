"""Decodes images with Pillow: encoded bytes to uint8 pixels, cropped to a box, within limits of size and time."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from jaxml.data.essential import Essential, essential
from jaxml.data.formats import (
    EXTRA_BYTES,
    FORMATS,
    Unreadable,
    check_depth,
    formats_of,
    in_colour,
    over_white,
)
from jaxml.data.index import ImageError, Index
from jaxml.data.orientation import ORIENTATION, upright
from jaxml.files import printable
from jaxml.progress import Progress

MAX_BYTES = 100_000_000
"""Bytes of a file."""
MAX_SIDE = 65_535
"""Pixels of a side, as many as JPEG allows; resizing a line of millions of pixels would take gigabytes."""
MAX_MEMORY = 450_000_000
"""Bytes of a file, its decoded image and a copy of that together: 56 million pixels in colour, 45 if progressive, 22 of
a WebP and 28 of a HEIC file."""
MAX_SCANNED = 600_000_000
"""Pixels of all scans of a JPEG together: 13 scans of 45 million pixels."""
MAX_RUN_LENGTH = 1_000_000
"""Pixels, and bytes, of a run-length encoded BMP, which Pillow decodes in Python and therefore slowly."""
MAX_SECONDS = 4.0
"""CPU time of a thread for one file. What the limits above let pass took under 2 s on a 2-core machine, so no sound
image is refused on a slower one; this limit stops what the others do not foresee."""
_Result = TypeVar("_Result")


def read(item: str | bytes, name: str) -> bytes:
    """Read the encoded bytes of an item of an index, a path or the bytes themselves.

    Raises:
        ImageError: it cannot be read, is not a regular file, or is too large.
    """
    if isinstance(item, bytes):
        _check_size(len(item), name)
        return item
    try:
        # Checked before it is opened as well as after: opening a device can make it act.
        _check_regular(os.stat(item), name)
        # Without O_NONBLOCK, a pipe that has taken the file's place meanwhile would block for ever.
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
        raise ImageError(f"image {printable(name)} is not a regular file. Replace it by a sound copy.")


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
    """Turn whatever a decoder raises into an ImageError with the name of the image."""
    try:
        yield
    except ImageError:
        raise
    except Unreadable as error:
        raise ImageError(f"image {printable(name)} {error}") from error
    except Exception as error:
        # Pillow's UnidentifiedImageError names nothing but the buffer in memory; other errors may have no text.
        reason = "memory ran out" if isinstance(error, MemoryError) else printable(error)
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f": {reason}" if reason and not unknown else ""
        what = f"cannot be decoded as {', '.join(FORMATS)}{reason}" if data else "is empty"
        remedy = (
            "Convert it to one of these, or remove it." if unknown and data else "Replace it by a sound copy."
        )
        raise ImageError(f"image {printable(name)} {what}. {remedy}") from error


def _open(data: bytes) -> tuple[ImageFile.ImageFile, int]:
    """Open an image without decompressing it, and check by its header that it is within the limits; its orientation."""
    part = essential(data)
    image = Image.open(_Timed(part.data), formats=formats_of(part.data))
    if not image.tile and image.format not in EXTRA_BYTES:  # decoders of the latter do without
        raise ValueError("it has no pixels")
    check_depth(image)
    if wrong := _beyond_limits(image, part):
        raise Unreadable(f"has {wrong}. Shrink it, save it anew, or remove it.")
    return image, part.turn


def _beyond_limits(image: ImageFile.ImageFile, part: Essential) -> str:
    """The limit that an image exceeds, in words; empty if there is none."""
    pixels, bands = image.width * image.height, len(image.getbands())
    encoded, scans, buffered = part.copies * len(part.data), part.scans, part.buffered
    if max(image.size) > MAX_SIDE:
        return f"a side of {max(image.size):,} pixels, beyond the limit of {MAX_SIDE:,}"
    # Pillow keeps four bytes per pixel, or one where there is a single channel. Converting or cropping makes a second
    # image; before that, a buffered JPEG takes two bytes per coefficient. Channels of 16 bits, of which 8 are kept,
    # take twice the time.
    extra = EXTRA_BYTES.get(image.format or "", 0)
    memory = encoded + pixels * ((1 if bands == 1 else 4) + max(4, 2 * bands * buffered) + extra)
    codec, _, _, options = image.tile[0] if image.tile else ("", None, 0, "")
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
    """Width and height in pixels of an encoded image, turned upright, from its header.

    Raises:
        ImageError: as `open_image`.
    """
    with _named(data, name):
        image, turn = _open(data)
        return image.size if turn < 5 else image.size[::-1]


def open_image(data: bytes, name: str, corner: np.ndarray | None = None) -> Image.Image:
    """Decode to an RGB image, upright, cropped to `corner` int [4] (left, top, right, bottom) if given.

    The picture is turned as EXIF says, and the crop is one of the upright picture; it has at least one pixel. What is
    transparent is white. Of channels of 16 bits the upper 8 are kept, of several pictures the first. Colour profiles
    are ignored. The limits are checked against the header, before anything is decompressed.

    Raises:
        ImageError: the image cannot be decoded, has over 16 bits per channel, or is beyond the limits.
    """
    with _named(data, name):
        return over_white(_cropped(*_open(data), corner))


def _cropped(image: Image.Image, turn: int, corner: np.ndarray | None) -> Image.Image:
    """An image upright, cropped, and in the mode RGB or RGBA."""
    image.load()
    image = upright(image, turn)
    if corner is not None:
        left, top, right, bottom = (int(v) for v in corner)
        left, top = min(max(left, 0), image.width - 1), min(max(top, 0), image.height - 1)
        right, bottom = min(max(right, left + 1), image.width), min(max(bottom, top + 1), image.height)
        image = image.crop((left, top, right, bottom))
    return in_colour(image)


def corners(boxes: np.ndarray) -> np.ndarray:
    """Whole pixels that cover boxes float [N, 4] (left, top, width, height): int32 [N, 4] left, top, right, bottom."""
    boxes = boxes.astype(np.float64)
    # An excess of a hundredth of a pixel comes from the rounding of the numbers and adds no pixel.
    first, last = np.floor(boxes[:, :2] + 0.01), np.ceil(boxes[:, :2] + boxes[:, 2:] - 0.01)
    return np.concatenate([first, last], axis=1).astype(np.int32)


def decode(item: str | bytes, name: str, corner: np.ndarray | None, size: int) -> np.ndarray:
    """Decode one image, cropped to `corner` int [4] (left, top, right, bottom) if given: uint8 [size, size, 3].

    Resized by linear interpolation with antialiasing.

    Raises:
        ImageError: as `read` and `open_image`.
    """
    data = read(item, name)
    with _named(data, name):
        return _resized(_cropped(*_open(data), corner), size)


def fitted(image: Image.Image, name: str, corner: np.ndarray | None, size: int) -> np.ndarray:
    """What `decode` makes of a file, of an image that Pillow has opened: uint8 [size, size, 3].

    Raises:
        ImageError: the image cannot be decoded.
    """
    with _named(b"opened", name):
        check_depth(image)
        image.load()  # which turns a TIFF upright, and then it says so
        turn = image.getexif().get(ORIENTATION, 1)
        return _resized(_cropped(image, turn, corner), size)


def _resized(image: Image.Image, size: int) -> np.ndarray:
    # Transparent pixels count less in the mean of their neighbourhood, and white shines through it: the same as if
    # white had come first, but in the memory of the small picture.
    return np.asarray(over_white(image.resize((size, size), Image.Resampling.BILINEAR)))


class Decoder:
    """Decodes the images of an index by row, for both input paths.

    Args:
        index: the images.
        size: side of the result in pixels.
        crop_to_box: crop each image to its box, where the index has boxes.
    """

    def __init__(self, index: Index, *, size: int, crop_to_box: bool) -> None:
        self._index, self._size = index, size
        self._crops = corners(index.boxes) if crop_to_box and index.boxes is not None else None

    def __call__(self, row: int) -> np.ndarray:
        """The image of a row, uint8 [size, size, 3].

        Raises:
            ImageError: it cannot be decoded, or its file has changed since the index was checked.
        """
        index, name, item = self._index, self._index.names[row], self._index.items[row]
        data = read(item, name)
        # Only files can change; hashes of other items may be of what they are made from.
        known = index.hashes[row] if index.hashes and isinstance(item, str) else ""
        if known and hashlib.sha256(data).hexdigest() != known:
            raise ImageError(
                f"image {printable(name)} has changed since this data set was opened. Restore it."
            )
        return decode(data, name, None if self._crops is None else self._crops[row], self._size)


def decode_all(index: Index, *, size: int, crop_to_box: bool) -> Iterator[np.ndarray]:
    """Decode all images of an index in order, each uint8 [size, size, 3].

    Raises:
        ImageError: an image cannot be decoded; those before it have been returned.
    """
    return parallel(Decoder(index, size=size, crop_to_box=crop_to_box), len(index.items), "decoding")


def parallel(function: Callable[[int], _Result], count: int, title: str) -> Iterator[_Result]:
    """Yield function(0) ... function(count - 1) in order, computed by one thread per core, and show how far it is.

    For functions that release Python's lock, as Pillow and hashlib do. Only a few results are computed ahead, so that
    they need not all fit into memory.
    """
    workers = os.cpu_count() or 1
    with (
        ThreadPoolExecutor(workers) as pool,
        Progress(title, count, "image") as progress,
    ):
        waiting: deque[Future[_Result]] = deque()
        try:
            for i in range(count):
                waiting.append(pool.submit(function, i))
                if len(waiting) >= 8 * workers:
                    yield waiting.popleft().result()
                    progress.update()
            while waiting:
                yield waiting.popleft().result()
                progress.update()
        finally:
            for future in waiting:
                future.cancel()
