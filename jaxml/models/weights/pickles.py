"""Reads PyTorch's weight files (`.pth`), in both of its formats, without PyTorch; nothing in them is executed."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxml.files import printable
from jaxml.models.weights import unpickling
from jaxml.models.weights.readers import MAX_FILE, WeightFile, WeightFormatError, read_with
from jaxml.models.weights.unpickling import Tensor

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
"""With the magic number, the beginning of a file before PyTorch 1.6."""
MAX_REPETITION = 2
"""Bytes of arrays that one byte of a file may become: tied weights have two names, but lie in the file once."""

MAX_REASON = 300
"""Characters of the reason that an error gives; a name in a file may be as long as the file."""


def read_pickle(path: Path) -> WeightFile:
    """Read a `.pth` file that `torch.save` has made of a table of named tensors, such as `model.state_dict()`.

    Raises:
        FileNotFoundError: there is no such file.
        WeightFormatError: the file is damaged, or holds something else; the message names it.
    """
    return read_with(parse_pickle, path)


def parse_pickle(file: BinaryIO, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays of a `.pth` file of `size` bytes; there is no metadata.

    Raises:
        WeightFormatError: the file is damaged, holds something else than a table of named tensors, or claims more than
            it can hold.
    """
    data = file.read(size)
    try:
        parse = _parse_zip if data.startswith(b"PK\3\4") else _parse_legacy
        table, storages = parse(data)
        return _arrays(table, storages, size), {}
    # On damaged archives zipfile raises a dozen types, some undocumented; they all mean the same.
    except Exception as error:
        raise WeightFormatError(
            f"damaged, or not what torch.save makes of model.state_dict(): {printable(str(error)[:MAX_REASON])}"
        ) from None


def _parse_zip(data: bytes) -> tuple[Any, dict[str, memoryview]]:
    """What is pickled in a file of PyTorch 1.6 or later, and the bytes of its storages by key.

    Source: PyTorch's notes on serialization, "Serialized file format for torch.save".
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        # PyTorch does not compress its files, so a compressed one may be a zip bomb.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("compressed, which PyTorch's own files are not")
        if sum(member.file_size for member in members) > len(data):
            raise ValueError("claims more bytes than it has")
        names = archive.namelist()
        if len({*names}) < len(names):
            raise ValueError("a name is given twice")
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} pickles in the archive, not one")
        folder = pickles[0].removesuffix("data.pkl")
        # Files before PyTorch 2.1 do not tell; they are little-endian wherever PyTorch is in use.
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("not little-endian")
        pickled = io.BytesIO(archive.read(pickles[0]))
        table = unpickling.load(pickled)
        _at_end(pickled)
        prefix = f"{folder}data/"
        return table, {
            name.removeprefix(prefix): memoryview(archive.read(name))
            for name in names
            if name.startswith(prefix)
        }


def _parse_legacy(data: bytes) -> tuple[Any, dict[str, memoryview]]:
    """What is pickled in a file of PyTorch before 1.6, and the bytes of its storages by key.

    The file is a row of five pickles (magic number, version of the format, properties of the machine, the table, keys
    of its storages) and then of the storages: how many numbers, in eight bytes, and the numbers.

    Source: `_legacy_save` in PyTorch's torch/serialization.py.
    """
    file = io.BytesIO(data)
    magic, version, system = (unpickling.load(file) for _ in range(3))
    if (magic, version) != (MAGIC, PROTOCOL):
        raise ValueError("it does not begin like one")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise ValueError("not little-endian")
    table, keys = unpickling.load(file), unpickling.load(file)
    itemsizes = {tensor.storage.key: tensor.storage.dtype.itemsize for tensor in _checked(table).values()}
    if sorted(keys) != sorted(itemsizes):
        raise ValueError("the keys of the storages are not those of the tensors")
    storages = {}
    for key in keys:
        size = int.from_bytes(file.read(8), "little") * itemsizes[key]
        start = file.tell()
        if size > len(data) - start:
            raise ValueError("truncated")
        storages[key] = memoryview(data)[start : start + size]
        file.seek(start + size)
    _at_end(file)
    return table, storages


def _arrays(table: Any, storages: dict[str, memoryview], size: int) -> dict[str, np.ndarray]:
    """The arrays of a table, each of them a copy."""
    tensors = _checked(table)
    for storage in (tensor.storage for tensor in tensors.values()):
        size_of_storage = storage.count * storage.dtype.itemsize
        if storage.key not in storages or len(storages[storage.key]) != size_of_storage:
            raise ValueError(f"the storage {storage.key} does not hold {storage.count} numbers")
    claimed = sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in tensors.values())
    if claimed > min(MAX_REPETITION * size, MAX_FILE):
        raise ValueError(f"tensors of {claimed} bytes in a file of {size}")
    return {name: tensor.within(storages[tensor.storage.key]).copy() for name, tensor in tensors.items()}


def _checked(table: Any) -> dict[str, Tensor]:
    if type(table) is not dict or not all(type(value) is Tensor for value in table.values()):
        raise ValueError("not a table of named tensors")
    return table


def _at_end(file: BinaryIO) -> None:
    if file.read(1):
        raise ValueError("bytes after the end")
