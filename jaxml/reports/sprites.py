"""Small pictures of many images in a few JPEG sheets, as large as a bound on their bytes allows."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np

SIDES = (
    96,
    64,
    48,
    32,
)  # of the pictures, in pixels; multiples of JPEG's blocks of 16, so that none shows its neighbour
SHEET = 2048  # pixels of a sheet's side; telephones decode no picture of more than 16 million
LIMIT = 4_000_000  # bytes of all sheets; base64 makes a third more of them
SAMPLE = 256  # images that tell the bytes of a side
QUALITY = 75


class Sprites(NamedTuple):
    """The pictures of the first `held` images, by row in each sheet."""

    side: int
    """Pixels of a picture's side."""
    columns: int
    """Pictures in a row of a sheet, and rows in a sheet."""
    held: int
    """Number of pictures."""
    sheets: list[str]
    """Data URIs."""


def sprites(images: np.ndarray, *, limit: int = LIMIT) -> Sprites:
    """Pictures of images uint8 [N, s, s, 3]: the largest side that keeps all of them within `limit` bytes.

    If not even the smallest side does, the last images have no picture.
    """
    sides = [side for side in SIDES if side <= images.shape[1]] or [SIDES[-1]]
    spread = np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(int))
    sample = images[spread]
    for side in sides:
        columns = SHEET // side
        bytes_each = len(_sheet(sample, side, int(np.ceil(np.sqrt(len(sample)))))) / len(sample)
        if bytes_each * len(images) <= limit:
            break
    held = min(len(images), int(limit / bytes_each))
    starts = range(0, held, columns**2)
    parts = [images[start : min(start + columns**2, held)] for start in starts]
    sheets = [base64.b64encode(_sheet(part, side, columns)).decode() for part in parts]
    return Sprites(side, columns, held, [f"data:image/jpeg;base64,{sheet}" for sheet in sheets])


def _sheet(images: np.ndarray, side: int, columns: int) -> bytes:
    """A JPEG file of the images uint8 [n, s, s, 3], row by row."""
    from PIL import Image

    sheet = Image.new("RGB", (min(len(images), columns) * side, -(-len(images) // columns) * side))
    for i, image in enumerate(images):
        small = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
        sheet.paste(small, (i % columns * side, i // columns * side))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
