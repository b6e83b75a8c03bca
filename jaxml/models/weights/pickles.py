"""Reads PyTorch's pickled weight files for conversion; only this file imports torch, and no training does."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxml.models.weights.readers import MAX_FILE, WeightFile, WeightFormatError, open_regular


def read_pickle(path: Path) -> WeightFile:
    """Read a `.pth` file by `torch.load(weights_only=True)`, which builds tensors and executes nothing.

    Raises:
        ImportError: torch is not installed.
        WeightFormatError: the file is damaged, or holds something else than a table of named tensors.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise ImportError(f"{path}: needs torch; convert it where torch is installed") from None
    with open_regular(path) as file:
        try:
            tensors, metadata = parse_pickle(file, path.stat().st_size)
        except WeightFormatError as error:
            raise WeightFormatError(f"{path}: {error}") from None
        file.seek(0)
        return WeightFile(tensors, metadata, hashlib.file_digest(file, "sha256").hexdigest())


def parse_pickle(file: BinaryIO, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays of a `.pth` file of `size` bytes; there is no metadata.

    Raises:
        WeightFormatError: the file is damaged, holds something else than a table of named tensors, or claims more than
            it can hold.
    """
    import torch

    _check_stored(file, size)
    file.seek(0)
    try:
        table = torch.load(file, map_location="cpu", weights_only=True)
    # A damaged pickle makes torch raise anything from KeyError to MemoryError; it all means the same to a user.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightFormatError(f"not a file of weights alone: {reason}") from None
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)
    if not isinstance(table, dict) or not all(
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in dtypes
        for name, value in table.items()
    ):
        raise WeightFormatError("not a plain table of named tensors; save `model.state_dict()`")
    # With a stride of 0, the shape of a tensor may claim more elements than are stored.
    if sum(value.numel() * value.element_size() for value in table.values()) > min(size, MAX_FILE):
        raise WeightFormatError("tensors larger than the file")
    return {name: _to_numpy(value) for name, value in table.items()}, {}


def _check_stored(file: BinaryIO, size: int) -> None:
    """Raise WeightFormatError for a zip archive that would inflate."""
    try:
        if not zipfile.is_zipfile(file):
            return  # a file of PyTorch before 1.6
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    # On damaged archives zipfile raises a dozen types, some undocumented.
    except Exception as error:
        raise WeightFormatError(f"damaged: {error}") from None
    # torch does not compress its files, so a compressed one may be a zip bomb.
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise WeightFormatError("compressed, which torch's own files are not")
    if sum(member.file_size for member in members) > size:
        raise WeightFormatError("claims more bytes than it has")


def _to_numpy(value: Any) -> np.ndarray:
    # torch cannot hand bfloat16 to NumPy, so floats become float32.
    value = value.detach()
    return np.ascontiguousarray((value.float() if value.is_floating_point() else value).numpy())
