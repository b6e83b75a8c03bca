"""Readers of untrusted weight files: safetensors and NumPy parse them, behind checks of size that bound the memory."""

from __future__ import annotations

import hashlib
import json
import math
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize

from jaxml.files import printable

MAX_FILE = 2**30
"""Bytes of a file, and of the arrays in it."""
MAX_HEADER = 2**22
"""Bytes of the header of a safetensors file."""
MAX_INFLATION = 20
"""Bytes that one byte of a compressed file may become; weights hardly compress."""
PICKLES = (".pth", ".pt", ".bin")
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),  # NumPy has none, and safetensors.numpy does not read it
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""The types of arrays that are read, by their names in safetensors files."""
_ENTRY = {"dtype", "shape", "data_offsets"}
Parse = Callable[[BinaryIO, int], tuple[dict[str, np.ndarray], dict[str, str]]]
"""Function (file, size) -> (arrays by name, metadata) that raises a WeightFormatError without the file's name."""


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
    """Read a `.safetensors` or `.npz` file; nothing in it is executed, and the memory is bounded by its size.

    Raises:
        FileNotFoundError: there is no such file.
        WeightFormatError: the file is too large, damaged, or of another format; the message names it.
    """
    path = Path(path)
    if path.suffix in PICKLES:
        raise WeightFormatError(
            f"{path}: pickles are not read in training; "
            f"`jaxml weights convert {path}` makes a .safetensors file of it"
        )
    parse = {".safetensors": parse_safetensors, ".npz": parse_npz}.get(path.suffix)
    if parse is None:
        raise WeightFormatError(f"{path}: weights are .safetensors or .npz files")
    return read_with(parse, path)


def read_with(parse: Parse, path: Path) -> WeightFile:
    """Read a file with its parser.

    Raises:
        FileNotFoundError: there is no such file.
        WeightFormatError: the parser refuses it, or it is too large or not regular; the message names it.
    """
    with open_regular(path) as file:
        try:
            tensors, metadata = parse(file, path.stat().st_size)
        except WeightFormatError as error:
            raise WeightFormatError(f"{path}: {error}") from None
        file.seek(0)
        return WeightFile(tensors, metadata, hashlib.file_digest(file, "sha256").hexdigest())


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read.

    Raises:
        FileNotFoundError: there is no such file.
        WeightFormatError: `path` is a folder, a device or a pipe, or larger than 1 GiB.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise WeightFormatError(f"{path}: not a regular file")
    if status.st_size > MAX_FILE:
        raise WeightFormatError(f"{path}: {status.st_size} bytes are more than the {MAX_FILE} that are read")
    return path.open("rb")


def parse_safetensors(file: BinaryIO, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays and the metadata of a safetensors file of `size` bytes.

    Raises:
        WeightFormatError: the file is damaged, or uses what the format does not define.

    Source: huggingface.co/docs/safetensors, "Format".
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise WeightFormatError(f"not a safetensors file: a header of {length} bytes in a file of {size}")
    file.seek(0)
    data = file.read(size)
    try:
        entries = deserialize(data)
        # The library returns no metadata, takes the last of several entries of one name, and ignores unknown keys.
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_without_duplicates)
        metadata = header.pop("__metadata__", None) or {}
        if not all(isinstance(entry, dict) and entry.keys() == _ENTRY for entry in header.values()):
            raise ValueError(f"an entry is not a table of {', '.join(sorted(_ENTRY))}")
        if unknown := {entry["dtype"] for _, entry in entries} - DTYPES.keys():
            raise ValueError(f"dtype {', '.join(sorted(unknown))} is not one of {', '.join(DTYPES)}")
        return {
            name: np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in entries
        }, metadata
    except (SafetensorError, ValueError) as error:
        raise WeightFormatError(f"damaged, truncated or no safetensors file: {printable(error)}") from None


def parse_npz(file: BinaryIO, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays of an `.npz` file of `size` bytes; there is no metadata.

    Raises:
        WeightFormatError: the file is damaged, holds something else than arrays of numbers, or claims more than it can
            hold.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive, size)
        file.seek(0)
        with np.load(file, allow_pickle=False) as table:
            return dict(table), {}
    # On damaged archives zipfile raises a dozen types, some undocumented; they all mean the same.
    except Exception as error:
        raise WeightFormatError(f"damaged or no .npz file: {printable(error)}") from None


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Raise ValueError unless every member is an array of numbers that fills the bytes it claims."""
    members = archive.infolist()
    claimed = sum(member.file_size for member in members)
    if claimed > min(MAX_INFLATION * size, MAX_FILE):
        raise ValueError(f"{claimed} bytes claimed by a file of {size}")
    if len({member.filename.removesuffix(".npy") for member in members}) < len(members):
        raise ValueError("a name is given twice")
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename}: compressed in a way that NumPy does not use")
        with archive.open(member) as file:
            _check_array(file, member)


def _check_array(file: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Compare the header of an array with its size: NumPy takes the memory that a header claims before it reads on."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{member.filename}: not an array in version 1.0 of NumPy's format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype not in DTYPES.values():
        raise ValueError(f"{member.filename}: {dtype} is not one of {', '.join(map(str, DTYPES.values()))}")
    if member.file_size - file.tell() != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{member.filename}: {member.file_size} bytes do not hold shape {list(shape)}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name is given twice")
    return table
