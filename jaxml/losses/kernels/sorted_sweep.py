"""All triplets of a batch at once: never a cube, never a list of indices, no gather and no scatter on the way.

The batch is sorted by label, so that the positives of all anchors are rolled rows (`ordering`), and negatives are
compared tile by tile with limits that the positives set (`tiles`). Value and gradient come from the same sweep.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxml.distances import l2_normalize, largest
from jaxml.losses.kernels import blocks, formulas, mining, soft_tiles, tiles, tiles_tpu
from jaxml.losses.kernels.ordering import Own, Rows, Slots, of_held, order, over_classes, pull, slots, zeros
from jaxml.losses.kernels.soft_tiles import Pairs
from jaxml.losses.kernels.sweep import WINDOWS, Sums
from jaxml.losses.kernels.tiles import METRICS, Limits, Side

Array = jax.Array

MINING = (*WINDOWS, "local", "local_class", "easy_positive")
CHUNK = 16
"""Slots that one sweep over the negatives compares: more would overflow registers, fewer repeat matrix products."""
FEW = 4
"""Slots of a sweep where no class has more."""
ENTRIES, WIDE = 2**21, 4096
"""Entries of a tile, which with what is computed of them fit a TPU's VMEM and a GPU's L2, and anchors in a tile."""
KEPT = 64
"""Slots whose distances are kept while a quantile of them is looked for."""


class Plan(NamedTuple):
    """What is fixed at compile time."""

    formula: str
    mining: str
    metric: str
    block_size: int | None
    mirrored: bool
    """Every candidate is an anchor, here or on another device."""

    @property
    def hinge(self) -> bool:
        """Whether numbers of triplets are the gradient."""
        return self.formula in formulas.HINGES


class Facts(NamedTuple):
    """Integer facts about L sorted rows, without gradient."""

    group: Array
    start: Array
    end: Array
    own: Array
    """int32 [B]: rows that are this device's anchors, increasing; for the formula soft its part of all rows, which may
    end beyond the last one."""
    anchor: Array | None
    candidate: Array | None


def triplets(
    x: Array,
    labels: Array,
    references: blocks.References | None,
    options: dict[str, Array],
    *,
    formula: str,
    mining: str,
    distance: str,
    block_size: int | None,
    axis_name: str | None,
) -> Sums:
    """Sums over the mined triplets of the anchors of all devices.

    Args:
        x: float32 [B, D].
        labels: int32 [B].
        references: candidates in place of the batch.
        options: `margin` and `quantile`, float32 [].
        formula: one of formulas.FORMULAS.
        mining: one of MINING.
        distance: one of distances.DISTANCES.
        block_size: anchors in a tile; chosen for the device if None.
        axis_name: mapped axis the batch is divided over.
    """
    metric, power = distance, 1
    if formula in formulas.OF_DIFFERENCE and formulas.OF_DIFFERENCE[formula].squared:
        metric = "squared" if distance == "euclidean" else f"{distance}, squared"
        power = 2
    if distance == "cosine":
        x = l2_normalize(x)
    count = x.shape[0]
    first = 0 if axis_name is None else lax.axis_index(axis_name) * count
    x, labels = blocks.gather((x, labels), axis_name)
    anchors = labels.shape[0]
    place = jnp.arange(anchors, dtype=jnp.int32)
    own = (place >= first) & (place < first + count)
    anchor = candidate = None
    if references is not None:
        r, there = references.embeddings, jnp.ones(references.labels.shape, bool)
        if references.mask is not None:
            there = references.mask
            # They are looked at nowhere, but a product of 0 and NaN is NaN.
            r = jnp.where(there[:, None], r, 0.0)
        r = l2_normalize(r) if distance == "cosine" else r
        x, labels = jnp.concatenate([x, r]), jnp.concatenate([labels, references.labels])
        anchor = jnp.arange(labels.shape[0]) < anchors
        candidate = jnp.concatenate([jnp.zeros(anchors, bool), there])
        own = jnp.concatenate([own, jnp.zeros_like(there)])
    x, labels, own, anchor, candidate = blocks.vary((x, labels, own, anchor, candidate), axis_name)
    rows, group, start, end = order(labels)
    if formula == "soft":
        # Rows are divided, anchors or not: those in which an anchor's positive is found do a part of the work.
        part = -(-labels.shape[0] // (1 if axis_name is None else lax.axis_size(axis_name)))
        mine = (0 if axis_name is None else lax.axis_index(axis_name)) * part + jnp.arange(
            part, dtype=jnp.int32
        )
    elif references is None and axis_name is not None:
        # Any division of the anchors will do: neighbours in sorted order lie side by side in memory.
        mine = first + jnp.arange(count, dtype=jnp.int32)
    elif references is None:
        mine = place
    else:
        (mine,) = jnp.nonzero(own[rows], size=count)
    if candidate is not None:
        anchor, candidate = anchor[rows], candidate[rows]
    facts = Facts(group, start, end, mine.astype(jnp.int32), anchor, candidate)
    plan = Plan(formula, mining, metric, block_size, references is None)
    options = blocks.vary(jax.tree.map(lambda o: jnp.asarray(o, jnp.float32), options), axis_name)
    sums = _sums(plan, x[rows], options, facts)
    sums = sums._replace(value=sums.value * blocks.sound(largest(x, x, distance) ** power))
    return jax.tree.map(partial(blocks.over_devices, axis_name=axis_name), sums)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(plan: Plan, x: Array, options: dict[str, Array], facts: Facts) -> Sums:
    return _forward(plan, x, options, facts)[0]


def _forward(plan: Plan, x: Array, options: dict[str, Array], facts: Facts) -> Any:
    soft = plan.formula == "soft"
    sums, gradient = (_compute_soft if soft else _compute)(plan, x, options, facts)
    of_margin = sums.active if soft or plan.hinge else jnp.zeros_like(sums.active)
    return sums, (gradient, of_margin)


def _backward(plan: Plan, residuals: Any, cotangents: Sums) -> Any:
    gradient, of_margin = (r * cotangents.value for r in residuals)
    return gradient, {"margin": of_margin, "quantile": jnp.zeros_like(of_margin)}, None


_sums.defvjp(_forward, _backward)


def _compute(plan: Plan, x: Array, options: dict[str, Array], facts: Facts) -> tuple[Sums, Array]:
    """The sums, and the gradient [L, D] of their value."""
    margin, metric = options["margin"], METRICS[plan.metric]
    rows = _rows(plan, x, facts)
    own = Own(facts.own, rows)
    candidate = jnp.ones_like(rows.group, bool) if rows.candidate is None else rows.candidate
    candidates = Side(rows.x.T, rows.size, jnp.where(candidate, rows.group, -1))
    mine = facts.own
    anchors = candidates if own.all else Side(candidates.x[mine], rows.size[mine], rows.group[mine])
    negatives = jnp.sum(candidate) - own.take(over_classes(candidate.astype(jnp.int32), rows))
    choose = _choice(plan, rows, options["quantile"], metric)

    def step(carry: Any) -> Any:
        first, sums, of_anchors, of_rows = carry
        held = slots(rows, first, CHUNK)
        use = held.filled & choose(_places(first), metric.value(held.square), lambda a: a[None, :])
        limits = _limits(plan, held, use, metric, margin, x.shape[1])
        # Sums relative to it are not large against their total.
        middle = (
            jnp.sum(jnp.where(use, limits.near, 0.0), axis=0) / jnp.maximum(jnp.sum(use, axis=0), 1) + margin
        )
        my_limits, my_middle, my_use = jax.tree.map(own.take, (limits, middle, use))
        used = jnp.minimum(rows.largest - first, CHUNK)
        found, more_of_anchors, of_candidates = _negatives(
            plan, anchors, my_limits, my_middle, candidates, limits, used
        )
        value = jnp.sum(found.value)
        if plan.hinge:
            above = jnp.where(my_use, my_limits.near + margin - my_middle[None, :], 0.0)
            value += jnp.sum(found.number * above)
        weights = jnp.where(use, own.put(found.slope) * metric.weight(held.square), 0.0)
        of_rows = of_rows + pull(rows, first, held, weights)
        if of_candidates is not None:
            of_rows = of_rows + of_candidates.T
        pairs = jnp.sum(my_use.astype(jnp.float32), axis=0)
        more = Sums(value, jnp.sum(found.number), jnp.sum(pairs * negatives.astype(jnp.float32)))
        return first + CHUNK, jax.tree.map(jnp.add, sums, more), of_anchors + more_of_anchors.T, of_rows

    zero = zeros((), x)
    start = (jnp.int32(1), Sums(zero, zero, zero), zeros(anchors.x.T.shape, x), zeros(rows.x.shape, x))
    _, sums, of_anchors, of_rows = lax.while_loop(lambda carry: carry[0] < rows.largest, step, start)
    if not plan.hinge or plan.mining in WINDOWS[1:]:
        sums = sums._replace(mined=sums.active)
    return sums, (of_rows + own.put_rows(of_anchors)).T


def _compute_soft(plan: Plan, x: Array, options: dict[str, Array], facts: Facts) -> tuple[Sums, Array]:
    """`_compute` of the formula soft."""
    margin, metric = options["margin"], METRICS[plan.metric]
    rows = _rows(plan, x, facts)
    anchor, candidate = (
        jnp.ones_like(rows.group, bool) if mask is None else mask for mask in (rows.anchor, rows.candidate)
    )
    choose = _choice(plan, rows, options["quantile"], metric)
    candidates = Side(rows.x.T, rows.size, jnp.where(candidate, rows.group, -1))
    rows = rows._replace(anchor=None, candidate=None)
    total, count = x.shape[0], facts.own.shape[0]
    height = min(plan.block_size or max(8, ENTRIES // total), count)
    count += -count % height
    place = facts.own[0]

    def own(a: Array, empty: float = 0, axis: int = 0) -> Array:
        """The part of this device, rows that lie beyond the last one included."""
        padding = [(0, count) if i == axis else (0, 0) for i in range(a.ndim)]
        return lax.dynamic_slice_in_dim(jnp.pad(a, padding, constant_values=empty), place, count, axis)

    mine = Side(own(candidates.x), own(rows.size), own(rows.group, -1))

    def step(carry: Any) -> Any:
        first, sums, of_mine, of_rows = carry
        held = slots(rows, first, CHUNK)
        near = metric.value(held.square)
        of_other = partial(of_held, rows, first, held)
        forward = held.filled & anchor[None, :] & of_other(candidate)
        forward &= choose(_places(first), near, lambda a: a[None, :])
        backward = held.filled & candidate[None, :] & of_other(anchor)
        backward &= choose(rows.largest - _places(first), near, of_other)
        limits = [_limits(plan, held, use, metric, margin, x.shape[1]) for use in (forward, backward)]
        found, of_mine_more, of_rows_more = soft_tiles.sweep(
            Pairs(mine, own(held.up, axis=1), *(_own_limits(own, these) for these in limits)),
            soft_tiles.others(candidates, place, count, first, rows.largest),
            candidates,
            jnp.minimum(rows.largest - first, CHUNK),
            windows=plan.mining in WINDOWS[1:],
            metric=metric,
            height=height,
        )
        number = jnp.sum(found.number)
        value = found.value + number * margin
        whole = jnp.pad(jnp.zeros_like(near), ((0, 0), (0, count)))
        weights = lax.dynamic_update_slice_in_dim(whole, found.number, place, 1)[:, :total]
        of_rows = of_rows + of_rows_more.T + pull(rows, first, held, weights * metric.weight(held.square))
        sums = jax.tree.map(jnp.add, sums, Sums(value, number, number))
        return first + CHUNK, sums, of_mine + of_mine_more, of_rows

    zero = zeros((), x)
    start = (jnp.int32(1), Sums(zero, zero, zero), zeros(mine.x.shape, x), zeros(rows.x.shape, x))
    _, sums, of_mine, of_rows = lax.while_loop(lambda carry: carry[0] < rows.largest, step, start)
    whole = zeros((total + count, x.shape[1]), x)
    return sums, of_rows.T + lax.dynamic_update_slice_in_dim(whole, of_mine, place, 0)[:total]


def _own_limits(own: Any, limits: Limits) -> Limits:
    low = None if limits.low is None else own(limits.low, axis=1)
    return Limits(low, own(limits.high, -jnp.inf, axis=1), own(limits.near, axis=1))


def _rows(plan: Plan, x: Array, facts: Facts) -> Rows:
    size, blank = jnp.ones(x.shape[0]), None
    if plan.metric.startswith("cosine"):
        blank = jnp.where(jnp.any(x != 0, axis=1), 0.0, 1.0)
    else:
        # Distances do not change when all rows move; near the origin their products cancel least.
        x = x - jnp.mean(x, axis=0, keepdims=True)
        size = jnp.sum(x * x, axis=1)
    largest = jnp.max(facts.end - facts.start)
    return Rows(x.T, size, blank, facts.group, facts.start, facts.end, largest, facts.anchor, facts.candidate)


def _choice(plan: Plan, rows: Rows, quantile: Array, metric: tiles.Metric) -> Any:
    """Which positives are mined: a function (slots [T, 1], distances [T, L], of) -> bool [T, L].

    `of` makes [T, L] of an array [L] that belongs to the anchor, whichever of the two that is.
    """
    if plan.mining in ("local", "local_class"):
        limit = _quantile(rows, quantile, metric, per_class=plan.mining == "local_class")
        return lambda place, near, of: near <= of(limit)
    if plan.mining == "easy_positive":
        nearest = _nearest(rows, metric)
        return lambda place, near, of: place == of(nearest)
    return lambda place, near, of: True


def _places(first: Array) -> Array:
    return first + jnp.arange(CHUNK, dtype=jnp.int32)[:, None]


def _nearest(rows: Rows, metric: tiles.Metric) -> Array:
    """Slot of the nearest positive of each row, int32 [L]."""

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        first, best, slot = carry
        held = slots(rows, first, CHUNK)
        near = jnp.where(held.filled, metric.value(held.square), jnp.inf)
        nearer = jnp.min(near, axis=0) < best
        slot = jnp.where(nearer, first + jnp.argmin(near, axis=0).astype(jnp.int32), slot)
        return first + CHUNK, jnp.minimum(best, jnp.min(near, axis=0)), slot

    start = (jnp.int32(1), zeros(rows.size.shape, rows.x) + jnp.inf, 0 * rows.start)
    return lax.while_loop(lambda carry: carry[0] < rows.largest, step, start)[2]


def _quantile(rows: Rows, quantile: Array, metric: tiles.Metric, *, per_class: bool) -> Array:
    """The quantile of each anchor's distances to its positives, or of all such distances of its class, float32 [L].

    Bisects on the bits of the distance, which order as non-negative floats do: 31 counts give the exact value of one
    of the distances, without sorting them.
    """

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
        count = lax.while_loop(lambda carry: carry[0] < rows.largest, more, start)[1]
        return over_classes(count, rows) if per_class else count

    greatest = float(jnp.finfo(jnp.float32).max)
    wanted = mining.last_place(quantile, within(zeros(rows.size.shape, rows.x) + greatest)) + 1

    def step(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = within(lax.bitcast_convert_type(middle, jnp.float32)) >= wanted
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    low = 0 * rows.start
    high = low + lax.bitcast_convert_type(jnp.float32(greatest), jnp.int32)
    low, _ = lax.fori_loop(0, 31, step, (low, high))
    # A hair more: what uses the limit may round a distance differently than what found it.
    return lax.bitcast_convert_type(low, jnp.float32) * (1.0 + 1e-6)


def _limits(plan: Plan, held: Slots, use: Array, metric: tiles.Metric, margin: Array, width: int) -> Limits:
    """Which distances of negatives count, by the windows of jaxml.losses.triplet."""
    near = metric.value(held.square)
    # Distances that differ by no more than their rounding are equal, whichever way they were computed.
    slack = tiles.rounding(width) * held.scale
    low = None
    high = near + margin if plan.hinge else jnp.full_like(near, jnp.inf)
    if plan.mining == "semi_hard":
        low, high = metric.value(held.square + slack), near + margin
    elif plan.mining == "original_semi_hard":
        high = jnp.minimum(high, metric.value(jnp.maximum(held.square - slack, 0.0)))
    return Limits(low, jnp.where(use, high, -jnp.inf), near)


def _negatives(
    plan: Plan,
    anchors: Side,
    limits: Limits,
    middle: Array,
    candidates: Side,
    all_limits: Limits,
    used: Array,
) -> tuple[tiles.Sums, Array, Array | None]:
    """`tiles.sweep` with tiles of a size that stays on the chip, or as one kernel where there is one."""
    width = min(plan.block_size or WIDE, anchors.x.shape[0])

    metric = METRICS[plan.metric]
    in_tiles = partial(
        tiles.sweep,
        compare=tiles.hinge if plan.hinge else partial(tiles.smooth, formulas.OF_DIFFERENCE[plan.formula]),
        metric=metric,
        tile=(max(8, ENTRIES // width), width),
    )
    fused = plan.hinge and tiles_tpu.block(anchors.x.shape[1]) is not None

    def sweep(slots: int) -> tuple[tiles.Sums, Array, Array | None]:
        mine, others = (jax.tree.map(lambda a: a[:slots], side) for side in (limits, all_limits))
        args = (anchors, mine, middle, candidates, others if plan.mirrored and plan.hinge else None, used)
        if fused:
            kernel = partial(tiles_tpu.sweep, metric=metric)
            sums, of_anchors, of_candidates = lax.platform_dependent(*args, tpu=kernel, default=in_tiles)
        else:
            sums, of_anchors, of_candidates = in_tiles(*args)
        empty = ((0, CHUNK - slots), (0, 0))
        sums = sums._replace(number=jnp.pad(sums.number, empty), slope=jnp.pad(sums.slope, empty))
        return sums, of_anchors, of_candidates

    if not plan.hinge:
        return sweep(CHUNK)
    # Every comparison costs time, whether its slots are filled or not.
    return lax.cond(used <= FEW, partial(sweep, FEW), partial(sweep, CHUNK))
