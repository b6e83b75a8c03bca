"""Strict readers for weight files from strangers: nothing is executed, memory is bounded by the file's size."""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
import zipfile
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

MAX_FILE = 2**30
MAX_HEADER = 2**22
PICKLES = (".pth", ".pt", ".bin")
_SAFETENSORS_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
}
_NPY_START = re.compile(
    rb"\x93NUMPY\x01\x00(?s:..)\{'descr': '(<f8|<f4|<f2|<i8)', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,12}, ?)*(?:\d{1,12})?)\), \} *\n"
)


class WeightFormatError(ValueError):
    """A weight file is damaged, is not of a supported format, or does not fit the network."""


@dataclass(frozen=True)
class WeightFile:
    """Arrays by name, as stored, and where they came from."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    """What a safetensors file says of itself."""
    sha256: str
    """Of the whole file."""


def read(path: str | Path) -> WeightFile:
    """Contents of a `.safetensors` or `.npz` file; WeightFormatError if there is anything wrong with it.

    Sizes that a header claims are checked against the file's own before memory is taken; gaps, overlaps, unknown
    types and names given twice are refused. FileNotFoundError if there is no such file.
    """
    path = Path(path)
    if path.suffix in PICKLES:
        raise WeightFormatError(
            f"{path}: pickles are not read in training; where torch is installed, "
            f"`python -m jaxml.models.weights.pretrained convert {path}` makes a .safetensors file of it"
        )
    parse = {".safetensors": parse_safetensors, ".npz": parse_npz}.get(path.suffix)
    if parse is None:
        raise WeightFormatError(f"{path}: weights are .safetensors or .npz files")
    with open_regular(path) as file:
        try:
            tensors, metadata = parse(file, path.stat().st_size)
        except WeightFormatError as error:
            raise WeightFormatError(f"{path}: {error}") from None
        file.seek(0)
        return WeightFile(tensors, metadata, hashlib.file_digest(file, "sha256").hexdigest())


def open_regular(path: Path) -> BufferedReader:
    """Open `path` for reading; WeightFormatError if it is a folder, a device, a pipe, or larger than 1 GiB."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise WeightFormatError(f"{path}: not a regular file")
    if status.st_size > MAX_FILE:
        raise WeightFormatError(f"{path}: {status.st_size} bytes are more than the {MAX_FILE} that are read")
    return path.open("rb")


def parse_safetensors(file: BinaryIO, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a safetensors file of `size` bytes (huggingface.co/docs/safetensors, "Format")."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise WeightFormatError(f"not a safetensors file: a header of {length} bytes in a file of {size}")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise WeightFormatError(f"not a safetensors file: its header is no JSON object ({error})") from None
    if not isinstance(header, dict):
        raise WeightFormatError("not a safetensors file: its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightFormatError("__metadata__ is not a table of strings")

    entries = [(name, *_safetensors_entry(name, entry)) for name, entry in header.items()]
    position = 0
    for name, _, _, begin, end in sorted(entries, key=lambda entry: entry[3:]):
        if begin != position:
            raise WeightFormatError(f"{name}: starts at byte {begin}, where {position} is expected")
        position = end
    if position != size - 8 - length:
        raise WeightFormatError(
            f"arrays of {position} bytes in a file that holds {size - 8 - length}: truncated?"
        )
    data = file.read(position)
    return {
        name: np.frombuffer(data[begin:end], dtype).reshape(shape)
        for name, dtype, shape, begin, end in entries
    }, metadata


def parse_npz(file: BinaryIO, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays of an `.npz` file of `size` bytes; object arrays are refused, and so is what inflates too far."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_members(archive, size), {}
    except WeightFormatError:
        raise
    # On damaged archives zipfile raises a dozen types, some undocumented; they all mean the same.
    except Exception as error:
        raise WeightFormatError(f"not an .npz file: {error}") from None


def _read_members(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    members = archive.infolist()
    # Weights hardly compress; a zip bomb is all about claiming more than the file could hold.
    claimed = sum(member.file_size for member in members)
    if claimed > min(20 * size, MAX_FILE):
        raise WeightFormatError(f"{claimed} bytes claimed by a file of {size}")
    tensors: dict[str, np.ndarray] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in tensors:
            raise WeightFormatError(f"{name}: given twice")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightFormatError(f"{name}: compressed in a way that NumPy does not use")
        tensors[name] = _parse_npy(name, archive.read(member))
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name is given twice")
    return table


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_FILE


def _safetensors_entry(name: str, entry: Any) -> tuple[np.dtype, list[int], int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise WeightFormatError(f"{name!r}: an entry has dtype, shape and data_offsets")
    dtype = _SAFETENSORS_DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise WeightFormatError(
            f"{name!r}: dtype {entry['dtype']!r} is not one of {', '.join(_SAFETENSORS_DTYPES)}"
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    for field in (shape, offsets):
        if not isinstance(field, list) or len(field) > 8 or not all(map(_is_size, field)):
            raise WeightFormatError(f"{name!r}: {field!r} is not a list of sizes")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise WeightFormatError(
            f"{name!r}: shape {shape} of {entry['dtype']} does not fit into bytes {offsets}"
        )
    return dtype, shape, offsets[0], offsets[1]


def _parse_npy(name: str, data: bytes) -> np.ndarray:
    # NumPy evaluates this header as Python; a pattern allows what numpy.save writes and nothing else.
    start = _NPY_START.match(data)
    if start is None:
        raise WeightFormatError(f"{name!r}: not an array of float16, float32, float64 or int64")
    dtype = np.dtype(start[1].decode())
    shape = [int(size) for size in start[3].decode().split(",") if size.strip()]
    if start.end() != 10 + int.from_bytes(data[8:10], "little") or len(shape) > 8:
        raise WeightFormatError(f"{name!r}: damaged header")
    if len(data) - start.end() != math.prod(shape) * dtype.itemsize:
        raise WeightFormatError(f"{name!r}: {len(data) - start.end()} bytes do not hold shape {shape}")
    order = "F" if start[2] == b"True" else "C"
    return np.frombuffer(data, dtype, offset=start.end()).reshape(shape, order=order)  # type: ignore[call-overload]
