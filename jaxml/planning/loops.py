"""Numbers of iterations of the loops in a compiled program."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jaxml.planning.hlo import Computation, Instruction, Module

PASSED_ON = ("bitcast", "convert", "copy", "copy-done", "copy-start", "opt-barrier", "reshape", "broadcast")


@dataclass(frozen=True)
class Scope:
    """A computation and where it is called from, so that constants can be followed into it."""

    computation: Computation
    caller: Scope | None = None
    call: Instruction | None = None
    """The loop or fusion that calls it."""


def iterations(module: Module, scope: Scope, loop: Instruction) -> int | None:
    """Number of iterations of a loop, an instruction of the scope's computation; None if only the data decides it.

    XLA states the number, or it follows from a condition i < limit with a constant limit, where i counts by ones.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known.group(1))
    inner = Scope(module.computations[loop.called("condition")], scope, loop)
    test, at = inner.computation.root, inner
    if test.op == "fusion":
        at = Scope(module.computations[test.called("calls")], inner, test)
        test = at.computation.root
    if test.op != "compare":
        return None
    small, large = test.operands
    if "direction=GT" in test.attributes:
        small, large = large, small
    elif "direction=LT" not in test.attributes:
        return None
    first, limit = constant(module, at, small, start=True), constant(module, at, large)
    return None if first is None or limit is None else max(0, limit - first)


def constant(module: Module, scope: Scope, name: str, start: bool = False) -> int | None:
    """The integer that an instruction returns, if the text fixes it; with `start` that of a loop's first iteration."""
    i = scope.computation.by_name.get(name)
    if i is None:
        return None
    if i.op == "constant":
        return int(i.operands[0]) if i.operands and re.fullmatch(r"-?\d+", i.operands[0]) else None
    if i.op in PASSED_ON and i.operands:
        return constant(module, scope, i.operands[0], start)
    if (
        i.op == "parameter"
        and scope.call is not None
        and scope.caller is not None
        and scope.call.op == "fusion"
    ):
        return constant(module, scope.caller, scope.call.operands[int(i.operands[0])], start)
    if i.op == "get-tuple-element":
        return _element(module, scope, i.operands[0], i.index, start)
    return None


def _element(module: Module, scope: Scope, name: str, index: int, start: bool) -> int | None:
    """The integer at one place of a tuple, if the text fixes it."""
    i = scope.computation.by_name.get(name)
    if i is None:
        return None
    if i.op == "tuple":
        return constant(module, scope, i.operands[index], start)
    if i.op == "while":
        kept = _unchanged(module, i, index)
        return _element(module, scope, i.operands[0], index, start) if kept else None
    if i.op in PASSED_ON:
        return _element(module, scope, i.operands[0], index, start)
    if i.op == "parameter" and scope.call is not None and scope.caller is not None:
        if scope.call.op == "while":
            if start or _unchanged(module, scope.call, index):
                # The first iteration of this loop need not be in the first iteration of a loop around it.
                return _element(module, scope.caller, scope.call.operands[0], index, False)
            return None
        return _element(module, scope.caller, scope.call.operands[int(i.operands[0])], index, start)
    return None


def _unchanged(module: Module, loop: Instruction, index: int) -> bool:
    """Whether the body of a loop passes an element of its tuple on unchanged."""
    body = module.computations[loop.called("body")]
    if body.root.op != "tuple":
        return False
    i = body.by_name.get(body.root.operands[index])
    while i is not None and i.op in PASSED_ON:
        i = body.by_name.get(i.operands[0])
    if i is None or i.op != "get-tuple-element" or i.index != index:
        return False
    source = body.by_name.get(i.operands[0])
    return source is not None and source.op == "parameter"
