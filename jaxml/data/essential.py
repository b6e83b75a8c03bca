"""Reduces JPEG and PNG files to the parts that their pixels depend on, and finds which way up pictures are.

Profiles, thumbnails, texts and further pictures are left out: decoders unpack them unasked, and in a small file they
can take hours and gigabytes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jaxml.data.orientation import orientation

MAX_PARTS = 50_000
"""Segments or chunks of a file; a PNG of 100 MB in chunks of 8 KiB has 12,000."""

_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_MARKER_AFTER_SCAN = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")  # restart markers belong to the scan
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN, _EXIF_SEGMENT = 0xD8, 0xD9, 0xDA, 0xE1
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_ARITHMETIC = set(range(0xC9, 0xD0))
# Of the application segments, JFIF (0) and Adobe (14) say what the colours mean. Pixels depend on none of the others,
# nor on comments.
_LEFT_OUT = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_INDEXED = b"\3"  # the value of the colour type, byte 25 of every PNG file, for colours from a palette


_EXIF = b"Exif\0\0"


class Essential(NamedTuple):
    """A file reduced to what its pixels depend on."""

    data: bytes
    turn: int = 1
    """Orientation by EXIF, 1 to 8."""
    copies: int = 1
    """How often the bytes of the file are in memory by now."""
    scans: int = 1
    """Passes of the decoder over the picture."""
    buffered: bool = False
    """Whether the decoder keeps the coefficients of the whole picture until it has read the last scan."""


def essential(data: bytes) -> Essential:
    """What the decoder needs of a file, and which way up its picture is.

    Pillow and libheif turn pictures in TIFF and HEIC themselves.

    Raises:
        ValueError: as `jpeg` and `png`.
    """
    if data.startswith(b"\xff\xd8"):
        return jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return Essential(data, orientation(_webp_exif(data)))
    return Essential(data)


def jpeg(data: bytes) -> Essential:
    """Leave out the segments of a JPEG file that its pixels do not depend on, and all that follows the picture.

    Segments are found as libjpeg finds them, so that damaged files decode or fail as they would have done whole.

    Raises:
        ValueError: arithmetic coding, whose decoder cannot be interrupted, or more than MAX_PARTS segments.
    """
    view = memoryview(data)  # slices of it are not copied
    kept, place, scans, components, buffered, turn = [view[:2]], 2, 0, 0, False, 0
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, place)
        if found is None:
            break
        kind, start, place = found[1][0], found.end() - 2, found.end()
        if kind == _END_OF_IMAGE:
            kept.append(view[start:place])
            break
        if kind in _ALONE:
            if kind == _START_OF_IMAGE:
                kept.append(view[start:place])
            continue
        length = int.from_bytes(data[place : place + 2])
        if length < 2:
            kept.append(view[start:])  # damaged: the decoder says how
            break
        place += length
        if kind in _ARITHMETIC:
            raise ValueError("arithmetic coding is not supported")
        if kind in _FRAMES:
            components = int.from_bytes(data[start + 9 : start + 10])
            buffered |= kind in _PROGRESSIVE
        if kind == _START_OF_SCAN:
            scans += 1
            buffered |= int.from_bytes(data[start + 4 : start + 5]) < components
            following = _MARKER_AFTER_SCAN.search(data, place)
            place = following.start() if following else len(data)
        if kind == _EXIF_SEGMENT and not turn and data.startswith(_EXIF, start + 4):
            turn = orientation(data[start + 4 + len(_EXIF) : place])
        if kind not in _LEFT_OUT:
            kept.append(view[start:place])
    else:
        raise ValueError(f"it has over {MAX_PARTS:,} segments")
    return Essential(b"".join(kept), turn or 1, 2, scans, buffered)


def png(data: bytes) -> Essential:
    """Leave out the chunks of a PNG file that its pixels do not depend on, and all that follows the picture.

    Raises:
        ValueError: the palette of indexed colours is missing, for which decoders would invent one, or there are more
            than MAX_PARTS chunks.
    """
    view = memoryview(data)
    kept, kinds, place, turn = [view[:8]], set(), 8, 1
    for _ in range(MAX_PARTS):
        kind = data[place + 4 : place + 8]
        end = place + 12 + int.from_bytes(data[place : place + 4])
        if kind in _CHUNKS:
            kept.append(view[place:end])
            kinds.add(kind)
        if kind == b"eXIf":
            turn = orientation(data[place + 8 : end - 4])
        place = end
        if kind == b"IEND" or place >= len(data):
            break
    else:
        raise ValueError(f"it has over {MAX_PARTS:,} chunks")
    if data[25:26] == _INDEXED and b"PLTE" not in kinds:
        raise ValueError("its palette is missing")
    return Essential(b"".join(kept), turn, 2)


def _webp_exif(data: bytes) -> bytes:
    """The EXIF block of a WebP file; empty where there is none."""
    place = 12
    for _ in range(MAX_PARTS):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"EXIF":
            return data[place + 8 : place + 8 + length].removeprefix(_EXIF)
        place += 8 + length + length % 2
        if place >= len(data):
            break
    return b""
