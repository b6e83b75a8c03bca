"""Which way up a picture is, as a camera notes it in the EXIF block of a file."""

from __future__ import annotations

from PIL import Image

ORIENTATION = 0x0112
"""The number of EXIF's entry."""
_SHORT = 3
_ENTRY = 12  # bytes of an entry of the block's table

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its orientation. Source: Exif 2.32, section 4.6.4, "Orientation"."""


def orientation(exif: bytes) -> int:
    """Orientation, 1 to 8, in an EXIF block without its `Exif` prefix; 1, upright, where it says none that is valid.

    Only the first table of the block is looked at, and nothing is unpacked.
    """
    order = {b"II": "little", b"MM": "big"}.get(exif[:2])
    if order is None:
        return 1

    def number(start: int, length: int) -> int:
        return int.from_bytes(exif[start : start + length], "little" if order == "little" else "big")

    table = number(4, 4)
    for start in range(table + 2, table + 2 + _ENTRY * number(table, 2), _ENTRY):
        if start + _ENTRY > len(exif):
            break
        if number(start, 2) == ORIENTATION:
            value = number(start + 8, 2)
            return value if number(start + 2, 2) == _SHORT and value in TURNS else 1
    return 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """The picture as it is to be looked at, given its orientation."""
    return image.transpose(TURNS[turn]) if turn in TURNS else image
