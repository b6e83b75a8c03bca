"""What both kinds of the sorted sweep start from: the sorted rows, and the limits that positives set to negatives."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxml.losses.kernels import tiles
from jaxml.losses.kernels.devices import vary
from jaxml.losses.kernels.formulas import Formula
from jaxml.losses.kernels.measures import MEASURES, Metric
from jaxml.losses.kernels.mining import Mining
from jaxml.losses.kernels.ordering import CHUNK, Rows, Slots
from jaxml.losses.kernels.positives import Which
from jaxml.losses.kernels.tiles import Limits
from jaxml.losses.kernels.windows import Near, Window, anywhere

Array = jax.Array

ENTRIES = 2**21
"""Entries of a tile, which with what is computed of them fit a TPU's VMEM and a GPU's L2."""


class Plan(NamedTuple):
    """What is fixed at compile time."""

    formula: Formula
    mining: Mining
    measure: str
    """One of MEASURES that has a metric."""
    block_size: int | None
    mirrored: bool
    """Every candidate is an anchor, here or on another device."""
    ring: str | None = None
    """Mapped axis of the devices that hold a part of the sorted rows each; all hold all rows if None."""

    @property
    def metric(self) -> Metric:
        """The measure as a function of squared Euclidean distances."""
        metric = MEASURES[self.measure].metric
        assert metric is not None
        return metric

    @property
    def window(self) -> Window:
        """At which distances negatives are mined."""
        assert self.mining.negatives.window is not None
        return self.mining.negatives.window

    def which(self, rows: Rows, quantile: Array) -> Which:
        """Which slots of L rows are mined, by a quantile float32 []."""
        assert self.mining.positives.of_slots is not None
        return self.mining.positives.of_slots(rows, quantile, self.metric)

    @property
    def windowed(self) -> bool:
        """Whether some negatives are left out."""
        return self.window is not anywhere

    @property
    def hinge(self) -> bool:
        """Whether numbers of triplets are the gradient."""
        return self.formula.kind == "hinge"


class Facts(NamedTuple):
    """Integer facts about L sorted rows, all or this device's part.

    They are apart from `Rows`, because embeddings have a gradient and these have none.
    """

    group: Array
    """int32 [L], as `start` and `end`: see ordering.Rows."""
    start: Array
    end: Array
    own: Array
    """int32 [B]: rows that are this device's anchors, increasing; for the kind soft its part of all rows, which may
    end beyond the last one."""
    anchor: Array | None
    """bool [L], as `candidate`: see ordering.Rows."""
    candidate: Array | None


def rows_of(plan: Plan, x: Array, facts: Facts) -> Rows:
    """Sorted rows of embeddings, float32 [L, D]; of unit length where the distance is cosine."""
    ring, blank = plan.ring, None
    size = vary(jnp.ones(x.shape[0], jnp.float32), ring)
    place = jnp.arange(x.shape[0], dtype=jnp.int32)
    if plan.measure.startswith("cosine"):
        blank = jnp.where(jnp.any(x != 0, axis=1), 0.0, 1.0)
    else:
        # Distances do not change when all rows move; near the origin their products cancel least.
        middle = jnp.mean(x, axis=0, keepdims=True)
        x = x - (middle if ring is None else lax.pmean(middle, ring))
        size = jnp.sum(x * x, axis=1)
    largest = jnp.max(facts.end - facts.start)
    if ring is not None:
        largest, place = lax.pmax(largest, ring), lax.axis_index(ring) * x.shape[0] + place
    numbers = facts.group, facts.start, facts.end, largest
    return Rows(x.T, size, blank, *numbers, facts.anchor, facts.candidate, place, ring)


def mined_slots(first: Array) -> Array:
    """Numbers of the CHUNK slots from `first` on, int32 [T, 1]."""
    return first + jnp.arange(CHUNK, dtype=jnp.int32)[:, None]


def limits_of(plan: Plan, held: Slots, use: Array, margin: Array, width: int) -> Limits:
    """Which distances of negatives count for the positives in slots.

    Args:
        plan: the formula and the window.
        held: T slots of L rows.
        use: bool [T, L], which of them are mined.
        margin: float32 [].
        width: D, of the embeddings.
    """
    near = plan.metric.value(held.square)
    # Distances that differ by no more than their rounding are equal, whichever way they were computed.
    slack = tiles.rounding(width) * held.scale
    above = plan.metric.value(held.square + slack)
    below = plan.metric.value(jnp.maximum(held.square - slack, 0.0))
    low, high = plan.window(Near(near, above, below), margin)
    ends = [limit for limit in (high, near + margin if plan.hinge else None) if limit is not None]
    upper = jnp.full_like(near, jnp.inf) if not ends else tiles.reduced(jnp.minimum, ends)
    return Limits(low, jnp.where(use, upper, -jnp.inf), near)
