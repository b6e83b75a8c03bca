"""The formats of pictures that are read, and what their pixels become: RGB, or RGBA where some are transparent."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
"""Read by Pillow alone."""
HEIF = "HEIF"
"""Read where pillow-heif is installed (extra `heic`)."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".heic", ".heif")
"""Endings of the names of such files."""
DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of one channel of 16 bits."""
EXTRA_BYTES = {"WEBP": 12, HEIF: 8}
"""Bytes per pixel that a decoder takes beside the picture, by format."""
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


class Unreadable(ValueError):
    """A picture that cannot be read here; the message goes on after its name, and says what to do."""


def formats_of(data: bytes) -> tuple[str, ...]:
    """The formats as which Pillow may open a file.

    Raises:
        Unreadable: it is HEIC, and pillow-heif is not installed.
    """
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIF_BRANDS:
        return FORMATS
    if not _reads_heif():
        raise Unreadable(
            "is in the format HEIC: `pip install jaxml[heic]` reads it, or convert it to JPEG or PNG"
        )
    return (HEIF,)


@cache
def _reads_heif() -> bool:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def check_depth(image: Image.Image) -> None:
    """Unreadable if channels have over 16 bits: nobody knows then which of the numbers are black and white."""
    if image.mode.startswith(("I", "F")) and image.mode not in DEEP:
        raise Unreadable(f"has over 16 bits per channel ({image.mode}); convert it to 8 bits")


def transparent(image: Image.Image) -> bool:
    """Whether the picture has pixels that may be transparent."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def in_colour(image: Image.Image) -> Image.Image:
    """The picture in the mode RGB, or RGBA if it may be transparent; of channels of 16 bits, the upper 8 are kept."""
    if image.mode in DEEP:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    mode = "RGBA" if transparent(image) else "RGB"
    return image if image.mode == mode else image.convert(mode)


def over_white(image: Image.Image) -> Image.Image:
    """A picture of mode RGB or RGBA as it looks on white: mode RGB."""
    if image.mode == "RGB":
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white
