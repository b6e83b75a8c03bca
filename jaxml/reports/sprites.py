"""Small pictures of many images in a few JPEG sheets, as large as a bound on their bytes allows."""

from __future__ import annotations

import base64
import io
import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

# Sides of the pictures, in pixels: multiples of JPEG's blocks of 16, so that no picture shows its neighbour.
SIDES = (96, 64, 48, 32)
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


def sprites(images: np.ndarray, order: np.ndarray, *, limit: int = LIMIT) -> Sprites:
    """Pictures of images uint8 [N, s, s, 3]: the largest side that keeps all of them within `limit` bytes.

    They stand in the order int [n] of places in `images`. If not even the smallest side keeps all within the limit, the
    last ones have no picture.
    """
    sides = [side for side in SIDES if side <= images.shape[1]] or [SIDES[-1]]
    sample = order[np.unique(np.linspace(0, len(order) - 1, SAMPLE).astype(int))]
    for side in sides:
        columns = SHEET // side
        bytes_each = len(_sheet(images, sample, side, math.isqrt(len(sample)))) / len(sample)
        if bytes_each * len(order) <= limit:
            break
    held = min(len(order), int(limit / bytes_each))
    parts = [order[start : min(start + columns**2, held)] for start in range(0, held, columns**2)]
    # Pillow works on several sheets at once.
    with ThreadPoolExecutor() as pool:
        sheets = list(pool.map(lambda part: _sheet(images, part, side, columns), parts))
    uris = [f"data:image/jpeg;base64,{base64.b64encode(sheet).decode()}" for sheet in sheets]
    return Sprites(side, columns, held, uris)


def _sheet(images: np.ndarray, rows: np.ndarray, side: int, columns: int) -> bytes:
    """A JPEG file of the places `rows` int [n] of images uint8 [N, s, s, 3], line by line."""
    from PIL import Image

    sheet = Image.new("RGB", (min(len(rows), columns) * side, -(-len(rows) // columns) * side))
    for i, row in enumerate(rows):
        small = Image.fromarray(images[row]).resize((side, side), Image.Resampling.BILINEAR)
        sheet.paste(small, (i % columns * side, i // columns * side))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
