"""Writes a plan as lines of text, with advice if the batch does not fit."""

from __future__ import annotations

from jaxml.planning.account import PARTS
from jaxml.planning.compiler import Compiled, TooLarge
from jaxml.planning.plan import LARGEST, Plan
from jaxml.planning.targets import GIB

MEMORY = {
    "images": "images",
    "state": "parameters and optimiser",
    "temporary": "temporary",
    "program": "program and results",
}
"""Titles of the fields of `Memory`."""


def summary(plan: Plan) -> list[str]:
    """The lines that `jaxml plan` prints."""
    data, target = plan.config.data, plan.target
    batch = plan.tried[0].images
    chips = f"{target.count} x {target.chip.title}" if target.count > 1 else target.chip.title
    lines = [
        f"{target.name}: {chips}, {batch:,} images a step, {batch // target.count:,} on each chip, {data.size} px, "
        f"{plan.config.model.backbone} in {plan.config.model.dtype}",
        *_memory(plan),
        *_largest(plan),
    ]
    if isinstance(plan.step, Compiled):
        lines += _step(plan, plan.step)
    if not plan.fits:
        lines += ["what helps:", *(f"  {line}" for line in advice(plan))]
    if target.kind == "h100":
        lines.append("not counted: the workspaces of cuDNN's convolutions, which are chosen on the device")
    lines.append(f"{_number(len(plan.tried), 'compilation')}, {plan.seconds:.0f} s; compiled, not measured")
    return lines


def advice(plan: Plan) -> list[str]:
    """What to change if the batch does not fit, the least costly change first."""
    config, found, memory = plan.config, [], plan.target.chip.memory
    pixels = plan.images * config.data.stored_size**2 * 3 / plan.target.count
    if config.data.input == "resident" and pixels > memory / 4:
        found.append(
            f"--data.input tf_data: the {plan.images:,} images stay on disk, {_size(pixels)} of a chip"
        )
    if config.model.dtype == "float32":
        found.append("--model.dtype bfloat16: activations take half the memory")
    if not config.model.remat:
        found.append("--model.remat: activations are computed again, for about a third more operations")
    share = plan.tried[0].images // plan.target.count
    fitting = plan.largest.images // plan.target.count if plan.largest else share // 4
    # A chunk has to divide a chip's share of the batch.
    chunk = max((n for n in range(1, min(fitting, share) + 1) if share % n == 0), default=1)
    if not config.train.chunk:
        found.append(
            f"--train.chunk {chunk}: memory of {chunk} images a chip, gradient of the batch, for one more forward"
            f" pass; a network with BatchNorm needs --model.batch_norm frozen"
        )
    if plan.target.kind != "cpu":
        found.append("more chips: each holds its share of the batch")
    if plan.largest:
        found.append(
            f"--data.classes_per_batch {plan.largest.classes}: the largest batch that was found to fit"
        )
    return found


def _memory(plan: Plan) -> list[str]:
    available = plan.target.chip.memory
    verdict = "it fits" if plan.fits else "it does not fit"
    if isinstance(plan.step, TooLarge):
        needed = f"{_size(plan.step.needed)} of " if plan.step.needed else "more than "
        return [f"memory a chip: {needed}{_size(available)}: {verdict}"]
    memory = plan.step.memory
    parts = ", ".join(f"{title} {_size(getattr(memory, name))}" for name, title in MEMORY.items())
    return [f"memory a chip: {_size(memory.total)} of {_size(available)}: {verdict} ({parts})"]


def _largest(plan: Plan) -> list[str]:
    if len(plan.tried) == 1:
        return []
    largest, each = plan.largest, plan.config.data.images_per_class
    if largest is None:
        return [f"largest batch: none of {', '.join(f'{b.images:,}' for b in plan.tried)} images fits"]
    refused = min((b.images for b in plan.tried if not b.fits), default=0)
    rest = f"; {refused:,} do not fit" if refused else ""
    if not refused and largest.images > LARGEST - each * plan.target.count:
        rest = "; no larger one was tried"
    lines = [
        f"largest batch found to fit: {largest.images:,} images ({largest.classes:,} classes x {each}), "
        f"{_size(largest.memory)} a chip{rest}"
    ]
    if largest.classes > plan.classes:
        lines.append(
            f"  the data set has {plan.classes:,} classes to learn from: beyond {plan.classes * each:,} images "
            f"raise --data.images_per_class"
        )
    return lines


def _step(plan: Plan, step: Compiled) -> list[str]:
    found = step.account
    lines = [f"{'a step, on each chip':22}{'memory traffic':>16}{'operations':>14}"]
    for part in PARTS:
        count = sum(found.operations.get(part, {}).values())
        if found.hbm_bytes.get(part) or count:
            lines.append(f"  {part:20}{_bytes(found.hbm_bytes.get(part, 0)):>16}{_operations(count):>14}")
    total = _operations(sum(found.precisions.values()))
    lines.append(f"  {'together':20}{_bytes(sum(found.hbm_bytes.values())):>16}{total:>14}")
    precise = ", ".join(f"{name} {_operations(count)}" for name, count in sorted(found.precisions.items()))
    lines.append(f"operations by precision: {precise}")
    if found.collectives:
        kinds = ", ".join(
            f"{kind} {c.number:.0f} ({_bytes(c.result_bytes)})"
            for kind, c in sorted(found.collectives.items())
        )
        lines.append(f"collectives: {kinds}; each chip sends at least {_bytes(found.link_bytes)}")
    loops = f"in loops: {_number(found.gathers_in_loops, 'gather')}, {_number(found.scatters_in_loops, 'scatter')}"
    if found.open_loops:
        open_loops = _number(found.open_loops, "loop")
        loops += f"; {open_loops} of a length that only the data decides, counted as one iteration"
    lines.append(loops)
    if bounds := plan.bounds:
        limit = max(bounds, key=bounds.__getitem__)
        each = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in bounds.items())
        lines.append(
            f"lower bound of a step from published peaks: {1e3 * bounds[limit]:.2f} ms, by {limit} ({each}); at most "
            f"{plan.tried[0].images / bounds[limit]:,.0f} images/s"
        )
    else:
        lines.append("no lower bound of time: there are no published peaks for this machine")
    return lines


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _size(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _operations(count: float) -> str:
    if not count:
        return "0"
    unit, letter = next(((u, x) for u, x in ((1e12, "T"), (1e9, "G")) if count >= u / 10), (1e6, "M"))
    return f"{count / unit:.2f} {letter}"
