"""PyTorch's weight files, written opcode by opcode without PyTorch: sound ones, and ones that claim what is not so."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

KINDS = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char"}
KINDS |= {"u1": "Byte", "b1": "Bool"}
HOOKS = b"ccollections\nOrderedDict\n)R"
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


@dataclass(frozen=True)
class Entry:
    """What the pickle says of one tensor, true or not."""

    key: str
    kind: str
    count: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    rebuild: str = "torch._utils\n_rebuild_tensor_v2"

    def opcodes(self) -> bytes:
        """The pickle of this tensor."""
        storage = b"(%sctorch\n%s\n%s%s%sNtQ" % (
            text("storage"),
            self.kind.encode(),
            text(self.key),
            text("cpu"),
            number(self.count),
        )
        return b"c%s\n(%s%s%s%s\x89%stR" % (
            self.rebuild.encode(),
            storage,
            number(self.offset),
            numbers(self.shape),
            numbers(self.strides),
            HOOKS,
        )


def text(value: str) -> bytes:
    """Push a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """Push an integer."""
    return pickle.dumps(value, 2)[2:-1]


def numbers(values: tuple[int, ...]) -> bytes:
    """Push a tuple of integers."""
    return b"(%st" % b"".join(map(number, values))


def whole(key: str, array: np.ndarray, **changes: object) -> Entry:
    """The entry of a tensor that is all of its storage; `changes` make it another or a wrong one."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    kind = KINDS.get(array.dtype.str[1:], "BFloat16") + "Storage"
    return replace(Entry(key, kind, array.size, 0, array.shape, strides), **changes)  # type: ignore[arg-type]


def table(entries: Mapping[str, Entry] | list[tuple[str, Entry]]) -> bytes:
    """The pickle of a table of tensors, which is an OrderedDict with an attribute, as `state_dict` makes it."""
    pairs = entries.items() if isinstance(entries, Mapping) else entries
    items = b"".join(text(name) + entry.opcodes() for name, entry in pairs)
    attribute = b"}(%s%su" % (text("_metadata"), HOOKS)
    return b"\x80\2%s(%su%sb." % (HOOKS, items, attribute)


def zip_file(pickled: bytes, storages: Mapping[str, bytes], *, byteorder: bytes = b"little") -> bytes:
    """A file of PyTorch 1.6 or later."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def legacy_file(
    pickled: bytes, storages: Mapping[str, tuple[int, bytes]], *, system: object = SYSTEM, keys: object = None
) -> bytes:
    """A file of PyTorch before 1.6; of each storage it tells how many numbers it has."""
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    body = b"".join(struct.pack("<q", count) + data for count, data in storages.values())
    return head + pickled + pickle.dumps(list(storages) if keys is None else keys, 2) + body


def save(arrays: Mapping[str, np.ndarray], *, legacy: bool) -> bytes:
    """A sound file of these arrays, in the format before PyTorch 1.6 or in that since."""
    keys = {name: str(number) for number, name in enumerate(arrays)}
    pickled = table({name: whole(keys[name], array) for name, array in arrays.items()})
    data = {keys[name]: array.tobytes("A") for name, array in arrays.items()}
    if not legacy:
        return zip_file(pickled, data)
    return legacy_file(
        pickled, {keys[name]: (array.size, data[keys[name]]) for name, array in arrays.items()}
    )
