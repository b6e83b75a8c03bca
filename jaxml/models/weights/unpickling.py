"""Interprets pickles of plain values and PyTorch tensors: nothing in them is imported, looked up or called."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

STORAGES: dict[str, np.dtype[Any]] = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}
"""The types of arrays that are read, by the names that pickles give them."""
MAX_PICKLE = 2**19
"""Bytes of a pickle; a table has about 150 for each tensor, and interpreting one byte may take 70 bytes of memory."""
MAX_DIMENSIONS = 64
"""Of an array in NumPy and of a tensor in PyTorch."""
_LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}


@dataclass(frozen=True)
class Global:
    """The name of a class or function, by module and name; it is never looked up."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A row of numbers whose bytes lie outside the pickle."""

    key: str
    dtype: np.dtype[Any]
    count: int
    """Of the numbers."""


@dataclass(frozen=True)
class Tensor:
    """Numbers of a storage as an array."""

    storage: Storage
    offset: int
    """Of the first number in the storage; counted in numbers, as strides are."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def within(self, data: memoryview) -> np.ndarray:
        """The array within the bytes of its storage."""
        dtype = self.storage.dtype
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        strides = [stride * dtype.itemsize for stride in self.strides]
        return np.ndarray(self.shape, dtype, data, self.offset * dtype.itemsize, strides)


def load(file: BinaryIO) -> Any:
    """The value of the pickle that begins where the file stands, which afterwards stands behind it.

    Understood are the opcodes that `torch.save` writes (protocol 2) for numbers, text, tuples, lists, tables with names
    as keys, and tensors.

    Raises:
        ValueError, LookupError, TypeError: the pickle is damaged, or holds something else.

    Source: the opcodes are those of Python's `pickletools`.
    """
    stack: list[Any] = []
    outer: list[list[Any]] = []  # the stacks below each mark
    memo: dict[int, Any] = {}
    start = file.tell()
    operations: Iterator[tuple[Any, Any, Any]] = pickletools.genops(file)
    for opcode, argument, position in operations:
        if position - start > MAX_PICKLE:
            raise ValueError(f"a pickle of more than {MAX_PICKLE} bytes")
        match opcode.name:
            case "PROTO":
                pass
            case "STOP":
                break
            case "MARK":
                outer.append(stack)
                stack = []
            case name if name in _LITERALS:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _EMPTY:
                stack.append(_EMPTY[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode.name[-1]))]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                items, stack = stack, outer.pop()
                stack.append(tuple(items))
            case "APPEND":
                item = stack.pop()
                _of(list, stack[-1]).append(item)
            case "APPENDS":
                items, stack = stack, outer.pop()
                _of(list, stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _fill(stack[-1], [key, value])
            case "SETITEMS":
                items, stack = stack, outer.pop()
                _fill(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                if argument not in memo:
                    raise ValueError("a reference to nothing")
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(Global(argument))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_call(_of(Global, stack.pop()), _of(tuple, arguments)))
            case "BUILD":  # the versions of the layers, which `state_dict` gives its table as an attribute
                stack.pop()
                _of(dict, stack[-1])
            case _:
                raise ValueError(f"opcode {opcode.name}, which tables of tensors do not need")
    (value,) = stack
    return value


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} in the place of {kind.__name__}")
    return value


def _fill(table: Any, items: list[Any]) -> None:
    """Add pairs, whose keys and values alternate, to a table."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if _of(str, key) in _of(dict, table):
            raise ValueError(f"the name {key} is given twice")
        table[key] = value


def _storage(said: Any) -> Storage:
    """What a persistent id says; in files before PyTorch 1.6 it may add a part of the storage, which no table needs."""
    match said:
        case "storage", Global(name), str(key), _, count, *part if part in ([], [None]):
            if name not in STORAGES:
                raise ValueError(f"{name} is not one of the types that are read: {', '.join(STORAGES)}")
            return Storage(key, STORAGES[name], _size(count))
    raise ValueError("a persistent id that is not a whole storage")


def _call(function: Global, arguments: tuple[Any, ...]) -> Any:
    """The result of one of the few functions that tables of tensors are pickled as calls of."""
    match function.name, arguments:
        case "collections OrderedDict", ():
            return {}
        case "torch._utils _rebuild_tensor_v2", (storage, offset, shape, strides, _, _):
            return _tensor(storage, offset, shape, strides)
        case "torch._utils _rebuild_parameter", (Tensor() as tensor, _, _):
            return tensor
    raise ValueError(
        f"calls {function.name} with {len(arguments)} arguments, which no table of tensors needs"
    )


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    """A tensor that lies within its storage; Python's integers, unlike NumPy's, do not overflow."""
    _of(Storage, storage)
    if not len(_of(tuple, shape)) == len(_of(tuple, strides)) <= MAX_DIMENSIONS:
        raise ValueError(f"a tensor with {len(shape)} sizes and {len(strides)} strides")
    last = _size(offset) + sum((_size(n) - 1) * _size(s) for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.count:
        raise ValueError(
            f"a tensor of shape {list(shape)} reaches beyond the {storage.count} numbers it lies in"
        )
    return Tensor(storage, offset, shape, strides)


def _size(number: Any) -> int:
    if not 0 <= _of(int, number) < 2**63:
        raise ValueError("a size, stride or offset that is negative or beyond 64 bits")
    return int(number)
