"""Which positives of an anchor are mined, for a block of anchors and, once more, for rows sorted by label.

In a block the positives are a mask [b, M], from which a function returns a block that holds fewer of them. Among sorted
rows they are slots [T, L] (see `ordering`), of which a function says which ones are mined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxml.losses.kernels import reductions
from jaxml.losses.kernels.blocks import Block, Sides
from jaxml.losses.kernels.devices import over_devices, zeros_like
from jaxml.losses.kernels.formulas import Options
from jaxml.losses.kernels.measures import Metric
from jaxml.losses.kernels.ordering import CHUNK, Rows, over_classes, slots, zeros
from jaxml.losses.kernels.reductions import last_place, row_count, row_counts
from jaxml.losses.kernels.relations import Anchors, Candidates, column_of_positive

Array = jax.Array

OfAnchor = Callable[[Array], Array]
"""Takes an array [L] to the anchors of triplets, whichever of the two rows of a pair they are: [1, L] or [T, L]."""
Which = Callable[[Array, Array, OfAnchor], Array | bool]
"""which(slots int32 [T, 1], distances float32 [T, L], of_anchor) -> bool [T, L], or one bool for all."""

KEPT = 64
"""Slots whose distances are kept while a quantile of them is looked for."""
BITS = 31
"""Bits of a float32 that is not negative; they order as the floats do, so that so many comparisons find one of them."""
SLACK = 1.0 + 1e-6
"""Factor of a limit that was found: what uses it may round a distance differently than what found it."""


def every(distances: Array, block: Block, quantile: Array) -> Block:
    """Every positive."""
    return block


def every_slot(rows: Rows, quantile: Array, metric: Metric) -> Which:
    """Every positive."""
    return lambda slot, near, of_anchor: True


def nearest(distances: Array, block: Block, quantile: Array) -> Block:
    """The positive of least distance, float32 [b, M]."""
    return _one(block, *reductions.nearest(distances, block.positive))


def farthest(distances: Array, block: Block, quantile: Array) -> Block:
    """The positive of greatest distance, float32 [b, M]."""
    return _one(block, *reductions.farthest(distances, block.positive))


def _one(block: Block, column: Array, exists: Array) -> Block:
    """A block in which each anchor has the positive in one column, int32 [b], if one `exists`, bool [b]."""
    columns = jnp.arange(block.positive.shape[1], dtype=jnp.int32)
    chosen = block.positive & (columns[None, :] == column[:, None])
    # A sweep over the positives visits one place only: the positive's own.
    anchors = block.anchor_facts._replace(start=column, size=exists.astype(jnp.int32), order=None)
    candidates = block.candidate_facts._replace(order=columns)
    return replace(_chosen(block, chosen), anchor_facts=anchors, candidate_facts=candidates, column=column)


def _chosen(block: Block, positive: Array) -> Block:
    """A block with fewer positives, bool [b, M]."""
    return replace(block, positive=positive, all_positives=False)


def nearest_slot(rows: Rows, quantile: Array, metric: Metric) -> Which:
    """The slot of least distance."""

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        first, best, slot = carry
        held = slots(rows, first, CHUNK)
        near = jnp.where(held.filled, metric.value(held.square), jnp.inf)
        nearer = jnp.min(near, axis=0) < best
        slot = jnp.where(nearer, first + jnp.argmin(near, axis=0).astype(jnp.int32), slot)
        return first + CHUNK, jnp.minimum(best, jnp.min(near, axis=0)), slot

    start = (jnp.int32(1), zeros(rows.size.shape, rows.x) + jnp.inf, 0 * rows.start)
    best = lax.while_loop(lambda carry: carry[0] < rows.largest, step, start)[2]
    return lambda slot, near, of_anchor: slot == of_anchor(best)


def within_quantile(distances: Array, block: Block, quantile: Array) -> Block:
    """Positives within the quantile of the anchor's distances, float32 [b, M]."""
    return _chosen(
        block, local(distances, block.positive, block.anchor_facts, block.candidate_facts, quantile)
    )


def local(
    distances: Array, positive: Array, anchors: Anchors, candidates: Candidates, quantile: Array
) -> Array:
    """Positives whose distance is within the given quantile of the anchor's positive distances.

    As with numpy.quantile: of n sorted distances, those up to place floor(quantile (n - 1)), counted from 0.

    Args:
        distances: float32 [b, M].
        positive: bool [b, M].
        anchors: b anchors.
        candidates: M candidates.
        quantile: float32 [].

    Returns:
        bool [b, M].
    """
    d = jnp.where(positive, distances, jnp.inf)
    n = jnp.sum(positive, axis=1)
    limit = last_place(quantile, n)
    row = jnp.arange(d.shape[0])

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        k, chosen = carry
        column, exists = column_of_positive(k, anchors, candidates)
        own = d[row, column]
        nearer = row_counts(d, [lambda d: d < own[:, None]])[:, 0]
        return k + 1, chosen.at[row, column].max(exists & (nearer <= limit))

    _, chosen = lax.while_loop(
        lambda carry: carry[0] < jnp.max(anchors.size), step, (jnp.int32(0), positive & ~positive)
    )
    return chosen & positive


def slots_within_quantile(rows: Rows, quantile: Array, metric: Metric) -> Which:
    """Positives within the quantile of the anchor's distances."""
    return _within(rows, quantile, metric, lambda counts: counts)


def within_class_quantile(distances: Array, block: Block, quantile: Array) -> Block:
    """Positives within the quantile of all positive distances of the class, which is in block.own: float32 [b]."""
    return _chosen(block, _near(distances, block, block.own))


def _near(distances: Array, block: Block, limits: Array) -> Array:
    """Which positives are at distances, float32 [b, M], up to the anchor's limit, float32 [b]: bool [b, M]."""
    return block.positive & (jnp.maximum(distances, 0.0) <= limits[:, None])


def class_quantile(sides: Sides, each: Callable[..., Array], options: Options) -> tuple[Array, tuple[()]]:
    """The quantile of all anchor-positive distances of each anchor's class, float32 [B], and nothing to share."""
    sides = lax.stop_gradient(sides._replace(axis_name=None))._replace(axis_name=sides.axis_name)
    facts = sides.anchor_facts

    def within(limits: Array) -> Array:
        counts = each(_number_near, sides, limits)
        slots = jnp.where(facts.size > 0, facts.start, 0)
        sums = jax.ops.segment_sum(counts, slots, num_segments=sides.candidates.shape[0])
        return over_devices(sums, sides.axis_name)[slots]

    everything = jnp.full(sides.x.shape[0], jnp.inf, jnp.float32) + zeros_like(sides.x[:, 0])
    return _quantile(within, options.quantile, everything, 0 * facts.start), ()


def _number_near(block: Block, *options: Any) -> Array:
    """How many positives are within the limit that is the anchor's own, int32 [b]."""
    return row_count(_near(block.measured, block, block.own))


def slots_within_class_quantile(rows: Rows, quantile: Array, metric: Metric) -> Which:
    """Positives within the quantile of all positive distances of the class."""
    return _within(rows, quantile, metric, lambda counts: over_classes(counts, rows))


def _within(rows: Rows, quantile: Array, metric: Metric, of_group: Callable[[Array], Array]) -> Which:
    """Slots within a quantile of the distances of a group of rows, over which of_group adds up counts, int32 [L]."""

    def near(first: Array, count: int) -> Array:
        held = slots(rows, first, count)
        return jnp.where(held.filled, metric.value(held.square), jnp.inf)

    kept = near(jnp.int32(1), KEPT)

    def within(limit: Array) -> Array:
        def more(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            first, count = carry
            below = near(first, CHUNK) <= limit[None, :]
            return first + CHUNK, count + jnp.sum(below, axis=0, dtype=jnp.int32)

        start = (jnp.int32(1 + KEPT), jnp.sum(kept <= limit[None, :], axis=0, dtype=jnp.int32))
        return of_group(lax.while_loop(lambda carry: carry[0] < rows.largest, more, start)[1])

    greatest = zeros(rows.size.shape, rows.x) + float(jnp.finfo(jnp.float32).max)
    limit = _quantile(within, quantile, greatest, 0 * rows.start)
    return lambda slot, near, of_anchor: near <= of_anchor(limit)


def _quantile(within: Callable[[Array], Array], quantile: Array, greatest: Array, low: Array) -> Array:
    """A quantile of distances, of which within(limits) counts those up to a limit: 31 counts, without sorting them.

    Bisects on the bits of the distance, which order as non-negative floats do, and so gives one of the distances
    exactly.

    Args:
        within: takes float32 [n] to int32 [n].
        quantile: float32 [].
        greatest: float32 [n], above all finite distances.
        low: int32 [n], zeros that vary over devices as the distances do.
    """
    wanted = last_place(quantile, within(greatest)) + 1

    def step(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = within(lax.bitcast_convert_type(middle, jnp.float32)) >= wanted
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    high = lax.bitcast_convert_type(greatest, jnp.int32)
    low, _ = lax.fori_loop(0, BITS, step, (low, high))
    return lax.bitcast_convert_type(low, jnp.float32) * SLACK
