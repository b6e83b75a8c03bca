"""Counts what a compiled program does: memory traffic, operations, collectives, gathers and scatters in loops.

XLA's own `cost_analysis` counts the body of a loop once and charges a gather for all that it might touch. Here a body
counts once for each iteration, a gather or slice reads what it takes, an update in place writes what it changes, and
what lies in a TPU's VMEM is no traffic. Each instruction that is executed reads its operands and writes its results
once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxml.planning.hlo import Computation, Instruction, Module
from jaxml.planning.loops import Scope, iterations
from jaxml.planning.operations import operations
from jaxml.planning.traffic import traffic

PARTS = ("input", "network", "loss", "update", "other")
"""Parts of a training step: the named scopes that it is traced in, and what belongs to none of them."""

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "add-dependency",
    "iota",
}
"""Instructions that do nothing themselves, or that are counted where they start."""
SCOPE = re.compile(rf"[/(](?:{'|'.join(PARTS[:-1])})(?=[/)])")


class Collective(NamedTuple):
    """Collectives of one kind."""

    number: float
    result_bytes: float


@dataclass
class Account:
    """What one execution of a program does, on each device."""

    hbm_bytes: dict[str, float] = field(default_factory=dict)
    """Bytes read from and written to main memory, by part."""
    operations: dict[str, dict[str, float]] = field(default_factory=dict)
    """Operations of matrix products by part and precision."""
    collectives: dict[str, Collective] = field(default_factory=dict)
    """Collectives by kind."""
    link_bytes: float = 0.0
    """Bytes that a device sends in the collectives, at least."""
    gathers_in_loops: int = 0
    """Gathers in the bodies of loops, each counted once."""
    scatters_in_loops: int = 0
    """Scatters in the bodies of loops, each counted once."""
    open_loops: int = 0
    """Loops whose length only the data decides: one iteration of each is counted."""

    @property
    def precisions(self) -> dict[str, float]:
        """Operations of matrix products by precision, over all parts."""
        found: dict[str, float] = {}
        for counts in self.operations.values():
            _sum(found, counts)
        return found


def account(module: Module, devices: int = 1) -> Account:
    """Account of a program that runs on this many devices; `module` is `hlo.parse(compiled.as_text())`."""
    found = Account()
    _walk(found, module, Scope(module.entry), 1.0, False, devices)
    return found


def _walk(found: Account, module: Module, scope: Scope, times: float, looped: bool, devices: int) -> None:
    """Add the instructions of a computation that is executed `times` times, inside of a loop if `looped`."""
    computation = scope.computation
    for i in computation.instructions:
        if i.op in FREE or i.op.endswith("-done"):
            continue
        if i.op == "while":
            count = iterations(module, scope, i)
            found.open_loops += count is None
            body = Scope(module.computations[i.called("body")], scope, i)
            # A loop of one iteration is no loop: `resident_steps` puts a single step into such a one.
            times_inside, looped_inside = times * (1 if count is None else count), looped or count != 1
            _walk(found, module, body, times_inside, looped_inside, devices)
        elif i.op == "conditional":
            _add(found, _dearest_branch(module, scope, i, times, looped, devices))
        elif i.op == "call":
            inner = Scope(module.computations[i.called("to_apply")], scope, i)
            _walk(found, module, inner, times, looped, devices)
        else:
            _count(found, module, computation, i, times, looped, devices)


def _count(
    found: Account,
    module: Module,
    computation: Computation,
    i: Instruction,
    times: float,
    looped: bool,
    devices: int,
) -> None:
    """Add one instruction that is executed `times` times."""
    part = _part(module, computation, i)
    _sum(found.hbm_bytes, {part: traffic(module, computation, i)}, times)
    if counts := operations(module, computation, i):
        _sum(found.operations.setdefault(part, {}), counts, times)
    inside = module.computations[i.called("calls")].instructions if i.op == "async-start" else [i]
    for collective in inside:
        _count_collective(found, collective, times, devices)
    if looped:
        found.gathers_in_loops += _number(module, i, "gather")
        found.scatters_in_loops += _number(module, i, "scatter")


def _count_collective(found: Account, i: Instruction, times: float, devices: int) -> None:
    """Add an instruction if it is a collective among several devices."""
    kind, group = i.op.removesuffix("-start"), _group(i, devices)
    if kind not in COLLECTIVES or group == 1:
        return
    buffers = i.buffers
    if i.op.endswith("-start") and kind != "all-reduce":
        buffers = buffers[len(i.operands) : 2 * len(i.operands)]  # the operands come before the results
    size = sum(buffer.size for buffer in buffers)
    before = found.collectives.get(kind, Collective(0, 0))
    found.collectives[kind] = Collective(before.number + times, before.result_bytes + times * size)
    found.link_bytes += times * _sent(kind, size, group)


def _dearest_branch(
    module: Module, scope: Scope, i: Instruction, times: float, looped: bool, devices: int
) -> Account:
    """Account of the branch of a conditional that has the most traffic."""
    listed = re.search(r"branch_computations=\{([^}]*)\}", i.attributes)
    names = listed.group(1).split(",") if listed else []
    names = names or [i.called("true_computation"), i.called("false_computation")]
    branches = []
    for name in names:
        branch = Account()
        inner = Scope(module.computations[name.strip().lstrip("%")])
        _walk(branch, module, inner, times, looped, devices)
        branches.append(branch)
    return max(branches, key=lambda branch: (sum(branch.hbm_bytes.values()), sum(branch.precisions.values())))


def _add(found: Account, more: Account) -> None:
    """Add another account to the first."""
    _sum(found.hbm_bytes, more.hbm_bytes)
    for part, counts in more.operations.items():
        _sum(found.operations.setdefault(part, {}), counts)
    for kind, (number, size) in more.collectives.items():
        before = found.collectives.get(kind, Collective(0, 0))
        found.collectives[kind] = Collective(before.number + number, before.result_bytes + size)
    found.link_bytes += more.link_bytes
    found.gathers_in_loops += more.gathers_in_loops
    found.scatters_in_loops += more.scatters_in_loops
    found.open_loops += more.open_loops


def _sum(found: dict[str, float], more: dict[str, float], times: float = 1.0) -> None:
    """Add the counts of the second table, times a number, to the first."""
    for key, count in more.items():
        found[key] = found.get(key, 0.0) + times * count


def _part(module: Module, computation: Computation, i: Instruction, depth: int = 3) -> str:
    """The part in whose scope an instruction was traced; one that the compiler added, in that of its users."""
    found = SCOPE.search("/" + i.op_name)
    if found:
        return found.group(0)[1:]
    if i.op_name:
        return "other"
    if i.op == "fusion":
        inner = module.computations[i.called("calls")]
        parts = Counter(
            p for x in inner.instructions if x.op_name and (p := _part(module, inner, x)) != "other"
        )
        if parts:
            return parts.most_common(1)[0][0]
    if depth:
        for where, user in _users(module, computation, i):
            part = _part(module, where, user, depth - 1)
            if part != "other":
                return part
    return "other"


def _users(
    module: Module, computation: Computation, i: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
    """Instructions that take the result of one, in the body of a loop too, each with its computation."""
    for user in computation.users.get(i.name, []):
        loops = [x for x in computation.users.get(user.name, []) if user.op == "tuple" and x.op == "while"]
        for loop in loops:
            body = module.computations[loop.called("body")]
            places = [n for n, name in enumerate(user.operands) if name == i.name]
            yield from (
                (body, x) for x in body.instructions if x.op == "get-tuple-element" and x.index in places
            )
        if not loops:
            yield computation, user


def _number(module: Module, i: Instruction, op: str) -> int:
    """Number of instructions of one kind in an instruction and in what it calls."""
    if i.op == "fusion":
        return sum(
            _number(module, inner, op) for inner in module.computations[i.called("calls")].instructions
        )
    return int(i.op == op)


def _group(i: Instruction, devices: int) -> int:
    """Number of devices among which a collective takes place."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", i.attributes):
        return listed.group(1).count(",") + 1
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", i.attributes):
        return int(counted.group(1))
    return devices


def _sent(kind: str, size: int, group: int) -> float:
    """Bytes that each of a group's devices must send for results of this size."""
    if kind == "collective-permute":
        return size
    share = (group - 1) / group
    # Each device receives a share of the result from each of the others.
    return {"all-reduce": 2 * share, "reduce-scatter": group - 1}.get(kind, share) * size
