"""The sorted sweep of the formula soft, of all three distances of a triplet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxml.losses.kernels import soft_tiles
from jaxml.losses.kernels.blocks import Terms
from jaxml.losses.kernels.ordering import CHUNK, of_held, pull, slots, zeros
from jaxml.losses.kernels.soft_tiles import Pairs
from jaxml.losses.kernels.sorted_rows import ENTRIES, Facts, Plan, limits_of, mined_slots, rows_of
from jaxml.losses.kernels.tiles import Limits, Side

Array = jax.Array


def compute(plan: Plan, x: Array, margin: Array, quantile: Array, facts: Facts) -> tuple[Terms, Array, Array]:
    """The sums, and the gradient of their value along the rows, float32 [L, D], and along the margin, float32 [].

    Args:
        plan: the formula soft.
        x: float32 [L, D], sorted.
        margin: float32 [].
        quantile: float32 [].
        facts: about the L rows.
    """
    metric = plan.metric
    rows = rows_of(plan, x, facts)
    anchor, candidate = (
        jnp.ones_like(rows.group, bool) if mask is None else mask for mask in (rows.anchor, rows.candidate)
    )
    mined = plan.which(rows, quantile)
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
        forward &= mined(mined_slots(first), near, lambda a: a[None, :])
        backward = held.filled & candidate[None, :] & of_other(anchor)
        backward &= mined(rows.largest - mined_slots(first), near, of_other)
        limits = [limits_of(plan, held, use, margin, x.shape[1]) for use in (forward, backward)]
        counted, of_mine_more, of_rows_more = soft_tiles.sweep(
            Pairs(mine, own(held.up, axis=1), *(_limits_of_part(own, these) for these in limits)),
            soft_tiles.others_of(candidates, place, count, first, rows.largest),
            candidates,
            jnp.minimum(rows.largest - first, CHUNK),
            windows=plan.windowed,
            metric=metric,
            height=height,
        )
        number = jnp.sum(counted.number)
        value = counted.value + number * margin
        whole = jnp.pad(jnp.zeros_like(near), ((0, 0), (0, count)))
        weights = lax.dynamic_update_slice_in_dim(whole, counted.number, place, 1)[:, :total]
        of_rows = of_rows + of_rows_more.T + pull(rows, first, held, weights * metric.weight(held.square))
        sums = jax.tree.map(jnp.add, sums, Terms(value, number, number))
        return first + CHUNK, sums, of_mine + of_mine_more, of_rows

    zero = zeros((), x)
    start = (jnp.int32(1), Terms(zero, zero, zero), zeros(mine.x.shape, x), zeros(rows.x.shape, x))
    _, sums, of_mine, of_rows = lax.while_loop(lambda carry: carry[0] < rows.largest, step, start)
    whole = zeros((total + count, x.shape[1]), x)
    gradient = of_rows.T + lax.dynamic_update_slice_in_dim(whole, of_mine, place, 0)[:total]
    return sums, gradient, sums.active


def _limits_of_part(own: Callable[..., Array], limits: Limits) -> Limits:
    """The limits [T, n] of this device's part of the rows, of those [T, L] of all."""
    low = None if limits.low is None else own(limits.low, axis=1)
    return Limits(low, own(limits.high, -jnp.inf, axis=1), own(limits.near, axis=1))
