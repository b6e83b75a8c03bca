"""Damage for the stress suite and the tests: changed bytes, hostile weight files, hostile archives."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """The data with up to four random changes: a flipped bit, a special byte, a cut or an insertion."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        # Half of the changes are near the beginning, where headers are.
        place = int(rng.integers((len(out) if rng.random() < 0.5 else min(len(out), 200)) + 1))
        kind = rng.integers(4)
        if kind == 0 and place < len(out):
            out[place] ^= 1 << int(rng.integers(8))
        elif kind == 1 and place < len(out):
            out[place] = b'\0\xff[]{}"0129,:-e.'[int(rng.integers(16))]
        elif kind == 2:
            del out[place : place + int(rng.integers(1, 20))]
        else:
            out[place:place] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(out)


def hurt(path: Path, kind: str, rng: np.random.Generator) -> None:
    """Flip a bit of a file, cut it off somewhere, empty it, or delete it."""
    data = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
    elif kind == "empty" or not data:
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(data[: int(rng.integers(len(data)))])
    else:
        bit = int(rng.integers(8 * len(data)))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)


def png(
    width: int,
    height: int,
    body: bytes,
    *,
    depth: int = 8,
    colour: int = 2,
    interlace: int = 0,
    before: bytes = b"",
) -> bytes:
    """A PNG file that claims a size and holds one compressed body, with chunks `before` it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(kind: int, body: bytes) -> bytes:
    """A segment of a JPEG file."""
    return bytes([0xFF, kind]) + struct.pack(">H", len(body) + 2) + body


def jpeg_of_scans(width: int, height: int, scans: int, *, refining: bool = True) -> bytes:
    """A progressive JPEG file of uniform grey: each scan is a few bytes, but is decoded over the whole image."""

    def bits(text: str) -> bytes:
        text += "1" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8).replace(b"\xff", b"\xff\0")

    blocks = -(-width // 8) * -(-height // 8)
    head = segment(0xDB, b"\0" + b"\1" * 64) + segment(
        0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"
    )
    # Each table has one code: no difference from the previous block, and 32,767 blocks without coefficients.
    tables = segment(0xC4, b"\0\1" + bytes(15) + b"\0") + segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")
    first = segment(0xDA, b"\1\1\0\0\0\0") + bits("0" * blocks)
    more = segment(0xDA, b"\1\1\0\1\x3f" + (b"\x10" if refining else b"\0"))
    more += bits(("0" + "1" * 14) * (blocks // 32_767 + 1))
    return b"\xff\xd8" + head + tables + first + more * (scans - 1) + b"\xff\xd9"


def jpeg_with_tags(picture: bytes, tags: int, size: int) -> bytes:
    """A JPEG file whose EXIF tags all point to the same place, from which each is read as `size` bytes."""
    tiff = b"II*\0" + struct.pack("<IH", 8, tags)
    tiff += b"".join(struct.pack("<HHII", 1000 + i, 1, size, 0) for i in range(tags))
    tiff = tiff.ljust(size, b"\1")
    parts = (segment(0xE1, b"Exif\0\0" + tiff[i : i + 65_000]) for i in range(0, len(tiff), 65_000))
    # Without a JFIF segment, whose resolution would be read in place of that in EXIF.
    return picture[:2] + b"".join(parts) + picture[4 + int.from_bytes(picture[4:6]) :]


def bmp(
    width: int, height: int, body: bytes, *, bits: int = 24, compression: int = 0, palette: bytes = b""
) -> bytes:
    """A BMP file that claims a size, with an arbitrary body."""
    size = 54 + len(palette)
    header = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, len(palette) // 4, 0
    )
    return b"BM" + struct.pack("<IHHI", size + len(body), 0, 0, size) + header + palette + body


class Command:
    """An object that unpickles into a call of os.system, which leaves a trace."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def zipped(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def safetensors(table: dict, data: bytes = b"") -> bytes:
    """A safetensors file with an arbitrary header."""
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _legacy(payload: object) -> bytes:
    """A file in PyTorch's format before 1.6: several pickles, one after the other."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, payload, [])
    return b"".join(pickle.dumps(part, 2) for part in parts)


def _hdf5(trace: Path) -> bytes:
    """An HDF5 file with an array that is a link to another file."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["a"] = h5py.ExternalLink(str(trace.with_name("secret.h5")), "/key")
        file["b"] = h5py.ExternalLink("/etc/passwd", "/")
    return buffer.getvalue()


def tarred(members: list[tarfile.TarInfo]) -> bytes:
    """A tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def hostile_weights() -> dict[str, Callable[[Path], bytes]]:
    """Hostile weight files by file name, made for the file that their code would create if it were executed."""
    f4 = b"\0" * 4
    one = {"a": _entry([1], 0, 4)}
    return {
        "pickle_zip.pth": lambda t: zipped(
            [("archive/data.pkl", pickle.dumps(Command(t), 2)), ("archive/version", b"3")]
        ),
        "pickle_legacy.pth": lambda t: _legacy(Command(t)),
        "pickle_plain.bin": lambda t: pickle.dumps({"weight": Command(t)}),
        "pickle_nested.pt": lambda t: _legacy({"a": [({"b": pickle.dumps(Command(t), 2)}, Command(t))]}),
        "pickle_in_zip_in_zip.pth": lambda t: zipped(
            [("archive/data.pkl", zipped([("data.pkl", pickle.dumps(Command(t), 2))]))]
        ),
        "pickle_bomb.pth": lambda t: zipped([("archive/data.pkl", bytes(10**8))], zipfile.ZIP_DEFLATED),
        "pickle_as.safetensors": lambda t: pickle.dumps(Command(t)),
        "pickle_as.npz": lambda t: pickle.dumps(Command(t)),
        "objects.npz": lambda t: zipped([("a.npy", _npy(np.array([Command(t)], object)))]),
        "program_as_header.npz": lambda t: zipped(
            [("a.npy", b"\x93NUMPY\1\0\x76\0" + f"__import__('os').system('touch {t}')".encode().ljust(117) + b"\n")]
        ),
        "claims_gigabytes.npz": lambda t: zipped(
            [("a.npy", _npy(np.zeros(4)).replace(b"(4,), }      ", b"(999999999,)}"))]
        ),
        "bomb.npz": lambda t: zipped([("a.npy", _npy(np.zeros(10**8, np.int8)))], zipfile.ZIP_DEFLATED),
        "climbing.npz": lambda t: zipped([(f"../../{t.name}", b"x"), (f"{t}", b"x")]),
        "name_twice.npz": lambda t: zipped([("a.npy", _npy(np.zeros(1, "<f4"))), ("a", _npy(np.zeros(1, "<f4")))]),
        "tar_with_links.npz": lambda t: tarred(links(t)),
        "overlap.safetensors": lambda t: safetensors({**one, "b": _entry([1], 0, 4)}, f4),
        "gap.safetensors": lambda t: safetensors({**one, "b": _entry([1], 8, 12)}, 3 * f4),
        "absurd_offsets.safetensors": lambda t: safetensors({"a": _entry([2**60], 0, 2**62)}, f4),
        "overflow.safetensors": lambda t: safetensors({"a": _entry([2**32, 2**32], 0, 0)}),
        "negative.safetensors": lambda t: safetensors({"a": _entry([-1, -1], 0, 4)}, f4),
        "header_100_mb.safetensors": lambda t: struct.pack("<Q", 100 * 2**20) + b" " * (100 * 2**20),
        "header_beyond.safetensors": lambda t: struct.pack("<Q", 2**63) + b"{}",
        "deep_header.safetensors": lambda t: struct.pack("<Q", 200_000) + b"[" * 200_000,
        "object_dtype.safetensors": lambda t: safetensors({"a": _entry([1], 0, 4, "O")}, f4),
        "external_links.h5": _hdf5,
        "external_links_as.safetensors": _hdf5,
        "external_links_as.npz": _hdf5,
    }  # fmt: skip


def links(trace: Path) -> list[tarfile.TarInfo]:
    """Archive members whose names lead out of the folder that they are unpacked to."""
    members = []
    for name in (f"../{trace.name}", f"a/../../{trace.name}", str(trace)):
        member = tarfile.TarInfo(name)
        member.size = 1
        members.append(member)
    for kind, target in ((tarfile.SYMTYPE, str(trace.parent)), (tarfile.LNKTYPE, "/etc/passwd")):
        member = tarfile.TarInfo(f"link{kind.decode()}")
        member.type, member.linkname = kind, target
        members.append(member)
        inside = tarfile.TarInfo(f"link{kind.decode()}/{trace.name}")
        inside.size = 1
        members.append(inside)
    return members
