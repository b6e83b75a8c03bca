"""Parses the text of a compiled XLA program: computations, instructions, shapes with layout and memory space."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cached_property

SIZES = {
    **dict.fromkeys(("pred", "s4", "u4", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
}
"""Bytes of an element; types that are not listed, such as token, take none."""

HEADER = re.compile(r"(ENTRY )?%?(\S+) \(.*\{\s*$")
INSTRUCTION = re.compile(r"\s+(ROOT )?%?(\S+) = (?:\((.*?)\)|(\S+)) ([a-z][a-z0-9\-]*)\((.*)$")
COMMENT = re.compile(r"/\*.*?\*/")
BUFFER = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")


@dataclass(frozen=True, slots=True)
class Buffer:
    """One array among the results of an instruction."""

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = 0
    """0 is the device's main memory; a TPU's other memories have other numbers, 1 is VMEM."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def size(self) -> int:
        """Bytes of its elements."""
        return self.elements * SIZES.get(self.dtype, 0)

    @property
    def stored(self) -> int:
        """Bytes that it takes in memory, padded to whole tiles."""
        dims = list(self.dims)
        for dim, tile in zip(self.minor_to_major, reversed(self.tile), strict=False):
            dims[dim] = -(-dims[dim] // tile) * tile
        return math.prod(dims) * SIZES.get(self.dtype, 0)

    @property
    def in_main_memory(self) -> int:
        """Bytes that it takes in main memory: 0 if it lies in another memory."""
        return self.stored if self.space == 0 else 0


@dataclass(slots=True)
class Instruction:
    """One line of a computation."""

    name: str
    op: str
    buffers: tuple[Buffer, ...]
    """Its results; the arrays of a tuple one after another."""
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def called(self, key: str) -> str:
        """Name of a computation that it calls, by the attribute's name: calls, to_apply, body or condition."""
        found = re.search(rf"\b{key}=%?([^\s,}}]+)", self.attributes)
        return found.group(1) if found else ""

    def numbers(self, key: str) -> list[int]:
        """Integers of an attribute such as dimensions={0,1}."""
        found = re.search(rf"\b{key}=\{{([\d,]*)\}}", self.attributes)
        return [int(x) for x in found.group(1).split(",") if x] if found else []

    @property
    def index(self) -> int:
        """Which element a get-tuple-element takes."""
        found = re.search(r"\bindex=(\d+)", self.attributes)
        return int(found.group(1)) if found else 0

    @property
    def op_name(self) -> str:
        """Scopes and primitive from which it was traced, such as jvp(loss)/mul; empty if that is not recorded."""
        found = re.search(r'\bop_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""


@dataclass
class Computation:
    """Instructions in the order in which they are executed."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        """Instructions by their name."""
        return {i.name: i for i in self.instructions}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Instructions that take each one's result."""
        users: dict[str, list[Instruction]] = {i.name: [] for i in self.instructions}
        for i in self.instructions:
            for name in dict.fromkeys(i.operands):
                users.setdefault(name, []).append(i)
        return users

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Parameters by their number."""
        return {int(i.operands[0]): i for i in self.instructions if i.op == "parameter"}

    @cached_property
    def root(self) -> Instruction:
        """The instruction whose result is the computation's."""
        return next(i for i in reversed(self.instructions) if i.root)


@dataclass
class Module:
    """A compiled program."""

    computations: dict[str, Computation]
    entry: Computation


def parse(text: str) -> Module:
    """The program in `compiled.as_text()`.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = current = None
    for line in text.splitlines():
        if current is None:
            if header := HEADER.match(line):
                current = computations[header.group(2)] = Computation(header.group(2))
                entry = current if header.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif found := _instruction(line):
            current.instructions.append(found)
    if entry is None:
        raise ValueError("this is no text of a compiled program: it has no ENTRY computation")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    """The instruction on a line; None if there is none."""
    # Comments are of the form /*index=5*/, and only long lists have them.
    found = INSTRUCTION.match(COMMENT.sub("", line) if "/*" in line else line)
    if found is None:
        return None
    root, name, several, single, op, rest = found.groups()
    inside, _, attributes = rest.partition(")")
    operands = tuple(word.split()[-1].lstrip("%") for word in inside.split(",") if word.strip())
    return Instruction(name, op, _buffers(several or single or ""), operands, attributes, bool(root))


def _buffers(text: str) -> tuple[Buffer, ...]:
    """The arrays in a text such as f32[8,128]{1,0:T(8,128)}."""
    found = []
    for dtype, dims, layout in BUFFER.findall(text):
        order, _, rest = layout.partition(":")
        tile = re.search(r"T\(([\d,]+)\)", rest)
        space = re.search(r"S\((\d+)\)", rest)
        found.append(
            Buffer(
                dtype,
                tuple(int(x.lstrip("<=")) for x in dims.split(",") if x),
                tuple(int(x) for x in order.split(",") if x),
                tuple(int(x) for x in tile.group(1).split(",")) if tile else (),
                int(space.group(1)) if space else 0,
            )
        )
    return tuple(found)
