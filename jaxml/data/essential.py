"""JPEG and PNG files without what their pixels do not depend on: profiles, thumbnails, texts, further pictures.

Decoders unpack such parts before anyone asks for them, and a small file can hold hours and gigabytes of them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_PARTS = 50_000
"""Segments or chunks of a file; a PNG of 100 MB in pieces of 8 KiB has 12,000."""

_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_MARKER_AFTER_SCAN = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")  # restart markers belong to the scan
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_ARITHMETIC = set(range(0xC9, 0xD0))
# Two application segments say which colours are meant: JFIF (0) and Adobe (14). The rest, and comments, say nothing.
_LEFT_OUT = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_INDEXED = b"\3"  # the colour type, where every PNG file has it


class Jpeg(NamedTuple):
    """A JPEG file reduced to what its pixels depend on."""

    data: bytes
    scans: int
    """How often the decoder goes over the picture."""
    buffered: bool
    """Whether the decoder keeps the coefficients of the whole picture until the last scan is read."""


def jpeg(data: bytes) -> Jpeg:
    """Leave out of a JPEG file what its pixels do not depend on, and all that follows the picture.

    Segments are found as libjpeg finds them, so that damaged files fail, or do not, as they would have done. Raises
    ValueError for arithmetic coding, whose decoder can not be interrupted, and for over MAX_PARTS segments.
    """
    view = memoryview(data)  # whose parts are not copied
    kept, place, scans, components, buffered = [view[:2]], 2, 0, 0, False
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
            kept.append(view[start:])  # damaged; the decoder will say how
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
        if kind not in _LEFT_OUT:
            kept.append(view[start:place])
    else:
        raise ValueError(f"it has over {MAX_PARTS:,} segments")
    return Jpeg(b"".join(kept), scans, buffered)


def png(data: bytes) -> bytes:
    """Leave out of a PNG file the chunks that its pixels do not depend on, and all that follows the picture.

    Raises ValueError for indexed colours without a palette, to which decoders give colours of their own, and for over
    MAX_PARTS chunks.
    """
    view = memoryview(data)
    kept, kinds, place = [view[:8]], set(), 8
    for _ in range(MAX_PARTS):
        kind = data[place + 4 : place + 8]
        end = place + 12 + int.from_bytes(data[place : place + 4])
        if kind in _CHUNKS:
            kept.append(view[place:end])
            kinds.add(kind)
        place = end
        if kind == b"IEND" or place >= len(data):
            break
    else:
        raise ValueError(f"it has over {MAX_PARTS:,} chunks")
    if data[25:26] == _INDEXED and b"PLTE" not in kinds:
        raise ValueError("its palette is missing")
    return b"".join(kept)
