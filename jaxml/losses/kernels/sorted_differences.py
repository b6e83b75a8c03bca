"""The sorted sweep of formulas of d_ap - d_an, hinges and smooth ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxml.losses.kernels import tiles, tiles_tpu
from jaxml.losses.kernels.blocks import Terms
from jaxml.losses.kernels.devices import over_devices
from jaxml.losses.kernels.ordering import CHUNK, Own, over_classes, pull, slots, zeros
from jaxml.losses.kernels.ring import once_round
from jaxml.losses.kernels.sorted_rows import ENTRIES, Facts, Plan, limits_of, mined_slots, rows_of
from jaxml.losses.kernels.tiles import Limits, Side

Array = jax.Array

FEW = 4
"""Slots of a sweep where no class has more."""
WIDE = 4096
"""Anchors in a tile."""


def compute(plan: Plan, x: Array, margin: Array, quantile: Array, facts: Facts) -> tuple[Terms, Array, Array]:
    """The sums, and the gradient of their value along the rows, float32 [L, D], and along the margin, float32 [].

    Args:
        plan: a formula of the kind hinge or smooth.
        x: float32 [L, D], sorted.
        margin: float32 [].
        quantile: float32 [].
        facts: about the L rows.
    """
    metric = plan.metric
    rows = rows_of(plan, x, facts)
    own = Own(facts.own, rows)
    candidate = jnp.ones_like(rows.group, bool) if rows.candidate is None else rows.candidate
    candidates = Side(rows.x.T, rows.size, jnp.where(candidate, rows.group, -1))
    mine = facts.own
    anchors = candidates if own.all else Side(candidates.x[mine], rows.size[mine], rows.group[mine])
    negatives = over_devices(jnp.sum(candidate), plan.ring)
    negatives -= own.take(over_classes(candidate.astype(jnp.int32), rows))
    mined = plan.which(rows, quantile)
    smooth_margin = plan.formula.has_margin and not plan.hinge

    def step(carry: Any) -> Any:
        first, sums, of_margin, of_anchors, of_rows = carry
        held = slots(rows, first, CHUNK)
        use = held.filled & mined(mined_slots(first), metric.value(held.square), lambda a: a[None, :])
        limits = limits_of(plan, held, use, margin, x.shape[1])
        if smooth_margin:
            limits = limits._replace(near=plan.formula.shifted(limits.near, margin))
        # Sums relative to it are not large against their total.
        middle = (
            jnp.sum(jnp.where(use, limits.near, 0.0), axis=0) / jnp.maximum(jnp.sum(use, axis=0), 1) + margin
        )
        my_limits, my_middle, my_use = jax.tree.map(own.take, (limits, middle, use))
        used = jnp.minimum(rows.largest - first, CHUNK)
        negatives_of = _negatives if plan.ring is None else _negatives_in_ring
        counted, more_of_anchors, of_candidates = negatives_of(
            plan, anchors, my_limits, my_middle, candidates, limits, used
        )
        value = jnp.sum(counted.value)
        if plan.hinge:
            above = jnp.where(my_use, my_limits.near + margin - my_middle[None, :], 0.0)
            value += jnp.sum(counted.number * above)
        weights = jnp.where(use, own.put(counted.slope) * metric.weight(held.square), 0.0)
        of_rows = of_rows + pull(rows, first, held, weights)
        if of_candidates is not None:
            of_rows = of_rows + of_candidates.T
        pairs = jnp.sum(my_use.astype(jnp.float32), axis=0)
        more = Terms(value, jnp.sum(counted.number), jnp.sum(pairs * negatives.astype(jnp.float32)))
        if smooth_margin:
            of_margin = of_margin + jnp.sum(counted.slope)
        sums = jax.tree.map(jnp.add, sums, more)
        return first + CHUNK, sums, of_margin, of_anchors + more_of_anchors.T, of_rows

    zero = zeros((), x)
    start = (jnp.int32(1), Terms(zero, zero, zero), zero, zeros(anchors.x.T.shape, x), zeros(rows.x.shape, x))
    _, sums, of_margin, of_anchors, of_rows = lax.while_loop(
        lambda carry: carry[0] < rows.largest, step, start
    )
    if not plan.hinge or plan.windowed:
        sums = sums._replace(valid=sums.active)
    of_margin = sums.active if plan.hinge else of_margin  # of a hinge numbers of triplets are the slopes
    return sums, (of_rows + own.put_rows(of_anchors)).T, of_margin


def _negatives(
    plan: Plan,
    anchors: Side,
    limits: Limits,
    middle: Array,
    candidates: Side,
    all_limits: Limits,
    used: Array,
) -> tuple[tiles.Sums, Array, Array | None]:
    """`tiles.sweep` with tiles of a size that stays on the chip, or as one kernel where there is one.

    Args:
        plan: what is compared, and how.
        anchors: n anchors.
        limits: [T, n], of the anchors.
        middle: float32 [n], see `tiles.sweep`.
        candidates: L candidates.
        all_limits: [T, L], of all rows.
        used: int32 [], slots that are not empty in all rows.
    """
    width, metric = min(plan.block_size or WIDE, anchors.x.shape[0]), plan.metric
    in_tiles = partial(
        tiles.sweep,
        compare=tiles.hinge if plan.hinge else partial(tiles.smooth, plan.formula),
        metric=metric,
        tile=(max(8, ENTRIES // width), width),
    )
    fused = plan.hinge and tiles_tpu.tile_size(anchors.x.shape[1]) is not None

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


def _negatives_in_ring(
    plan: Plan,
    anchors: Side,
    limits: Limits,
    middle: Array,
    candidates: Side,
    all_limits: Limits,
    used: Array,
) -> tuple[tiles.Sums, Array, Array | None]:
    """`_negatives` of the candidates of all devices, which come past in their parts."""
    assert plan.ring is not None

    def step(sums: Any, part: Any, of_part: Array | None) -> Any:
        others, other_limits = part
        *more, of_others = _negatives(plan, anchors, limits, middle, others, other_limits, used)
        of_part = None if of_part is None or of_others is None else of_part + of_others
        return jax.tree.map(jnp.add, sums, tuple(more)), of_part

    none = zeros(limits.high.shape, middle)
    sums = tiles.Sums(zeros(middle.shape, middle), none, none), zeros(anchors.x.shape, middle)
    of_candidates = None if plan.hinge else zeros(candidates.x.shape, middle)
    part = candidates, all_limits if plan.hinge else None
    (sums, of_anchors), of_candidates = once_round(step, sums, part, of_candidates, plan.ring)
    return sums, of_anchors, of_candidates
