"""Counts the bytes that an instruction of a compiled program reads from and writes to main memory."""

from __future__ import annotations

from jaxml.planning.hlo import Computation, Instruction, Module

TAKE = ("dynamic-slice", "slice", "gather")
"""Instructions that read only a part of their first operand, of the size of their result."""
CHANGE = ("dynamic-update-slice", "scatter")
"""Instructions that change their first operand in place."""


def traffic(module: Module, computation: Computation, i: Instruction) -> float:
    """Bytes that an instruction reads and writes; those in other memories, such as VMEM, do not count."""
    if i.op == "copy-start":
        target, source = i.buffers[:2]
        return target.in_main_memory + source.in_main_memory
    if i.op.endswith("-start"):
        # The result lists the operands before what is computed; that of all-reduce-start has only the latter.
        results = i.buffers if i.op == "all-reduce-start" else i.buffers[len(i.operands) :][: len(i.operands)]
        read = sum(_size(computation, name) for name in i.operands)
        if i.op.removesuffix("-start") in TAKE:
            read = min(read, sum(r.stored for r in results))
        return read + sum(r.in_main_memory for r in results)
    if i.op == "custom-call" and "ConcatBitcast" in i.attributes:
        return 0  # on a TPU, arrays that already lie side by side: nothing is moved
    inner = module.computations[i.called("calls")] if i.op == "fusion" else None
    read = 0.0
    for number, name in enumerate(i.operands):
        full = _size(computation, name)
        if full and inner:
            full = _read(module, inner, number, full)
        elif number == 0:
            full = _read_of_first(i, full)
        read += full
    return read + _written(module, computation, i, inner)


def _size(computation: Computation, name: str) -> float:
    """Bytes of an operand in main memory."""
    i = computation.by_name.get(name)
    return sum(b.in_main_memory for b in i.buffers) if i else 0


def _read_of_first(i: Instruction, full: float) -> float:
    """Bytes that an instruction reads of its first operand, which has `full` bytes."""
    if i.op in TAKE:
        return min(full, sum(b.size for b in i.buffers))
    return 0 if i.op in CHANGE else full


def _read(module: Module, computation: Computation, number: int, full: float) -> float:
    """Bytes that a fused computation reads of a parameter: a part, if its users take no more."""
    if number not in computation.parameters:
        return 0
    total, names = 0.0, [computation.parameters[number].name]
    while names:
        name = names.pop()
        for user in computation.users[name]:
            if user.op == "bitcast":
                names.append(user.name)
            elif user.op in TAKE + CHANGE and name not in user.operands[1:]:
                total += _read_of_first(user, full)
            elif user.op == "fusion":
                inner = module.computations[user.called("calls")]
                places = [n for n, operand in enumerate(user.operands) if operand == name]
                total += sum(_read(module, inner, place, full) for place in places)
            else:
                return full
    return min(total, full)


def _written(module: Module, computation: Computation, i: Instruction, inner: Computation | None) -> float:
    """Bytes that an instruction writes; `inner` is the computation of a fusion."""
    if inner is None:
        return (
            _changed(module, computation, i) if i.op in CHANGE else sum(b.in_main_memory for b in i.buffers)
        )
    root = inner.root
    if root.op != "tuple":
        return _changed(module, inner, root) if i.buffers[0].space == 0 else 0
    # Each element of the tuple is one of the fusion's buffers.
    pairs = zip(root.operands, i.buffers, strict=False)
    return sum(
        min(_changed(module, inner, inner.by_name[name]), buffer.in_main_memory)
        for name, buffer in pairs
        if buffer.in_main_memory
    )


def _changed(module: Module, computation: Computation, i: Instruction) -> float:
    """Bytes of its result that an instruction writes; for a scatter, with those that it reads to add to them."""
    while i.op == "bitcast" and i.operands[0] in computation.by_name:
        i = computation.by_name[i.operands[0]]
    if i.op == "fusion":
        inner = module.computations[i.called("calls")]
        if inner.root.op != "tuple":
            return _changed(module, inner, inner.root)
    if i.op in CHANGE:
        update = computation.by_name.get(i.operands[1 if i.op == "dynamic-update-slice" else 2])
        if update is not None:
            return sum(b.size for b in update.buffers) * (2 if i.op == "scatter" else 1)
    return sum(b.stored for b in i.buffers)
