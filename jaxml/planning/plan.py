"""Plans a training step: whether it fits into a chip's memory, what it takes, and the largest batch that fits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxml.config import Config, to_dict
from jaxml.planning.compiler import Compiled, Request, TooLarge, run
from jaxml.planning.targets import Target

NEAR = 0.9
"""A batch counts as the largest if it takes this share of the memory, or is this share of one that does not fit."""
SEARCH = 5
"""Compilations, at most, in the search for the largest batch."""
LARGEST = 2**17
"""Images of the largest batch that is tried."""


@dataclass(frozen=True)
class Batch:
    """A batch that was compiled."""

    classes: int
    images: int
    memory: float
    """Bytes of a chip's memory; 0 if the compiler refused it without saying how much it would take."""
    fits: bool


@dataclass(frozen=True)
class Plan:
    """What a run will take on its target."""

    config: Config
    target: Target
    images: int
    """Images of the data set."""
    classes: int
    """Classes to learn from."""
    step: Compiled | TooLarge
    tried: tuple[Batch, ...]
    """Batches that were compiled, that of the configuration first."""
    seconds: float
    """Time that the compilations took."""

    @property
    def fits(self) -> bool:
        """Whether the batch of the configuration fits."""
        return self.tried[0].fits

    @property
    def largest(self) -> Batch | None:
        """The largest batch that was found to fit."""
        return max((b for b in self.tried if b.fits), key=lambda b: b.images, default=None)

    @property
    def bounds(self) -> dict[str, float]:
        """Lower bounds of a step's time in seconds, by what limits it; empty where no peaks are published."""
        chip = self.target.chip
        if isinstance(self.step, TooLarge) or not chip.operations:
            return {}
        found = self.step.account
        return {
            "matrix products": sum(
                count / chip.operations.get(precision, math.inf)
                for precision, count in found.precisions.items()
            ),
            "memory traffic": sum(found.hbm_bytes.values()) / chip.bandwidth,
            "links": found.link_bytes / chip.link,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        step = self.step
        made: dict[str, Any] = {"needed": step.needed} if isinstance(step, TooLarge) else _plain(step)
        return {
            "for": self.target.name,
            "chips": self.target.count,
            "memory_available": self.target.chip.memory,
            "images": self.images,
            "classes": self.classes,
            "fits": self.fits,
            **made,
            "lower_bounds_seconds": self.bounds,
            "batches": [dataclasses.asdict(batch) for batch in self.tried],
            "compilations": len(self.tried),
            "compile_seconds": round(self.seconds, 1),
            "config": to_dict(self.config),
        }


def _plain(step: Compiled) -> dict[str, Any]:
    found = step.account
    return {
        "memory": {**dataclasses.asdict(step.memory), "total": step.memory.total},
        "hbm_bytes": found.hbm_bytes,
        "operations": found.operations,
        "collectives": {kind: found.collectives[kind]._asdict() for kind in sorted(found.collectives)},
        "link_bytes": found.link_bytes,
        "gathers_in_loops": found.gathers_in_loops,
        "scatters_in_loops": found.scatters_in_loops,
        "open_loops": found.open_loops,
    }


def plan(
    config: Config,
    target: Target,
    images: int,
    classes: int,
    *,
    search: bool = True,
    compile_step: Callable[[Request], Compiled | TooLarge] = run,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Compile the run's step, and larger or smaller batches until the largest that fits is known to a tenth.

    Args:
        config: the run.
        target: the chips.
        images: images of the data set.
        classes: classes to learn from. A larger batch has more classes, and is tried although the data set may have
            fewer.
        search: whether to look for the largest batch.
        compile_step: compiles one request.
        say: called with a line of text before every compilation.

    Returns:
        The plan.

    Raises:
        ValueError: the configuration or the target is invalid, or its compiler is not installed.
        RunError: the compiler failed.
    """
    tried: list[Batch] = []
    made: list[Compiled | TooLarge] = []

    def attempt(number: int) -> None:
        data = dataclasses.replace(config.data, classes_per_batch=number)
        request = Request(dataclasses.replace(config, data=data), target, images, max(classes, number))
        say(f"compiling for {target.name}: {number} classes x {data.images_per_class} images")
        step = compile_step(request)
        made.append(step)
        memory = step.needed if isinstance(step, TooLarge) else step.memory.total
        fits = isinstance(step, Compiled) and memory <= target.chip.memory
        tried.append(Batch(number, number * data.images_per_class, memory, fits))

    attempt(config.data.classes_per_batch)
    unit = target.count // math.gcd(target.count, config.data.images_per_class)
    while search and len(tried) <= SEARCH:
        number = _next(tried, made[0], target.chip.memory, unit, LARGEST // config.data.images_per_class)
        if number is None:
            break
        attempt(number)
    return Plan(config, target, images, classes, made[0], tuple(tried), sum(step.seconds for step in made))


def _next(tried: list[Batch], first: Compiled | TooLarge, memory: float, unit: int, most: int) -> int | None:
    """Number of classes to try next, a multiple of `unit`; None if the largest batch is known well enough.

    Memory grows nearly linearly with the batch, so that two batches predict where it reaches the limit.
    """
    low = max((b for b in tried if b.fits), key=lambda b: b.classes, default=None)
    high = min((b for b in tried if not b.fits), key=lambda b: b.classes, default=None)
    if low and (low.memory >= NEAR * memory or (high and low.classes >= NEAR * high.classes)):
        return None
    known = sorted((b for b in tried if b.memory), key=lambda b: abs(b.memory - memory))[:2]
    if len(known) == 2 and known[0].memory != known[1].memory:
        slope = (known[0].memory - known[1].memory) / (known[0].classes - known[1].classes)
        base = known[0].memory - slope * known[0].classes
    else:
        # At most what a step needs beside its arguments grows with the batch.
        only = known[0] if known else None
        fixed = first.memory.total - first.memory.temporary if isinstance(first, Compiled) else 0.0
        base, slope = (fixed, (only.memory - fixed) / only.classes) if only else (0.0, 0.0)
    # The guess stays a little under the limit, for memory does not grow exactly linearly.
    guess = (0.97 * memory - base) / slope if slope > 0 else math.inf
    bottom, top = (low.classes if low else 0), (high.classes if high else most + 1)
    if not bottom < guess < top:
        guess = (bottom + top) / 2 if high else min(2 * bottom, most)
    number = int(guess) // unit * unit
    number = max(number, (bottom // unit + 1) * unit)
    return number if number < top and number <= most else None
