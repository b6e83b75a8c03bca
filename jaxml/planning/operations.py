"""Counts multiplications and additions of the matrix products and convolutions in a compiled program."""

from __future__ import annotations

import math
import re
from functools import cache

from jaxml.planning.hlo import Computation, Instruction, Module

Dims = tuple[int, ...]
PRODUCTS = ("dot", "convolution", "custom-call")


def operations(module: Module, computation: Computation, i: Instruction) -> dict[str, float]:
    """Operations of an instruction and of what it calls, by precision: two for each multiplication with addition.

    The precision is the type of the factors. For float32 it also says how exactly they are multiplied: float32 (the
    device's default), float32_high or float32_highest.
    """
    if i.op == "fusion":
        inner = module.computations[i.called("calls")]
        found: dict[str, float] = {}
        for part in inner.instructions:
            for precision, count in operations(module, inner, part).items():
                found[precision] = found.get(precision, 0) + count
        return found
    if i.op not in PRODUCTS or len(i.operands) < 2:
        return {}
    sides = [computation.by_name[name].buffers[0] for name in i.operands[:2] if name in computation.by_name]
    if len(sides) < 2:
        return {}
    left, right = sides
    if i.op == "dot":
        depth = math.prod(left.dims[d] for d in i.numbers("lhs_contracting_dims"))
        count = 2 * i.buffers[0].elements * depth
    elif i.op == "custom-call" and "gemm" in i.attributes:
        inside = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', i.attributes)
        depths = re.findall(r"\d+", inside.group(1)) if inside else []
        count = 2 * i.buffers[0].elements * math.prod(left.dims[int(d)] for d in depths)
    elif "dim_labels=" in i.attributes:
        count = _convolution(i.attributes, *_forward(i, left.dims, right.dims, i.buffers[0].dims))
    else:
        return {}
    return {_precision(left.dtype, i.attributes): count} if count else {}


def _precision(dtype: str, attributes: str) -> str:
    """Precision of a product of factors of this type, as a key of `operations`."""
    if dtype != "f32":
        return {"bf16": "bfloat16", "f16": "bfloat16"}.get(dtype, dtype)
    found = re.search(r'operand_precision"?[=:][{\[]"?(\w+)', attributes)
    level = found.group(1).lower() if found else "default"
    return "float32" if level == "default" else f"float32_{level}"


def _forward(i: Instruction, left: Dims, right: Dims, result: Dims) -> tuple[Dims, Dims, Dims]:
    """Shapes of input, kernel and output of the forward convolution, by which cuDNN's gradients are described."""
    if "$convBackwardInput" in i.attributes:
        return result, right, left
    if "$convBackwardFilter" in i.attributes:
        return left, result, right
    return left, right, result


def _convolution(attributes: str, left: Dims, right: Dims, result: Dims) -> int:
    """Operations of a convolution; those on padding and on the zeros between dilated entries are not counted."""
    found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if not found:
        return 0
    inputs, kernel, output = found.groups()
    window = re.search(r"window=\{([^}]*)\}", attributes)
    settings = dict(word.split("=") for word in window.group(1).split()) if window else {}
    pairs = 1
    for axis, label in enumerate(sorted(c for c in output if c.isdigit())):

        def of(key: str, default: str, axis: int = axis) -> str:
            return settings[key].split("x")[axis] if key in settings else default

        pairs *= _pairs(
            left[inputs.index(label)],
            result[output.index(label)],
            int(of("size", "1")),
            int(of("stride", "1")),
            int(of("pad", "0_0").split("_")[0]),
            int(of("lhs_dilate", "1")),
            int(of("rhs_dilate", "1")),
        )
    channels = right[kernel.index("i")]
    return 2 * result[output.index("b")] * result[output.index("f")] * channels * pairs


@cache
def _pairs(
    length: int, out: int, size: int, stride: int, low: int, left_dilate: int, right_dilate: int
) -> int:
    """Number of pairs of an output's place and a kernel's place along one axis whose product is not of padding."""
    full = (length - 1) * left_dilate + 1
    return sum(
        0 <= place < full and place % left_dilate == 0
        for o in range(out)
        for place in range(o * stride - low, o * stride - low + size * right_dilate, right_dilate)
    )
