"""All triplets of a block of anchors in one sweep over their positives: never a cube, never a list of indices.

This is the blockwise form of the sweep, which CPUs compute; `sorted_sweep` is the other one. For one or a few positives
at a time, each anchor's row of negative distances is compared with the positives' distances. Value and gradient come
from the same sweep: for the hinge the gradient is a count of the triplets that violate it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.distances import pairwise
from jaxml.losses.kernels.blocks import Block, Terms
from jaxml.losses.kernels.devices import zeros_like
from jaxml.losses.kernels.formulas import Formula, Options
from jaxml.losses.kernels.measures import MEASURES
from jaxml.losses.kernels.reductions import count, row_count, row_counts
from jaxml.losses.kernels.relations import column_of_positive
from jaxml.losses.kernels.windows import Limits, Near, Window, anywhere

Array = jax.Array

AT_ONCE = 4
"""Positives compared in one pass over the negatives' distances: the fewest passes that registers still hold."""


def terms(window: Window, formula: Formula, distances: Array, block: Block, options: Options) -> Terms:
    """Sums over the mined positives of a block, each with its negatives inside a window.

    Args:
        window: which negatives are mined.
        formula: what a triplet costs.
        distances: float32 [b, M], squared where the formula asks for it.
        block: positives are taken from block.positive among the candidates of the anchor's label.
        options: the margin is used.
    """
    if formula.of_three:
        # Where (a, p, n) is mined, so is (p, a, n): in a batch compared with itself by labels, and nothing left out.
        of_itself = block.candidate_facts.ids is not None and block.anchor_facts.given is None
        # Both cost the same if d_ap is d_pa.
        symmetric = (
            of_itself and block.all_positives and window is anywhere and MEASURES[block.measure].symmetric
        )
        return _of_three(formula, window, symmetric, distances, block.candidates, options.margin, block)
    return _of_differences(formula, window, distances, options.margin, block)


def _inside(d: Array, limits: Limits, use: Array) -> Array:
    """Which of the distances [b, M] are finite, to be used and inside limits [b, 1]."""
    low, high = limits
    inside = (d < jnp.inf) & use
    if low is not None:
        inside &= d > low
    return inside if high is None else inside & (d < high)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _of_differences(formula: Formula, window: Window, distances: Array, margin: Array, block: Block) -> Terms:
    """`terms` of a formula of d_ap - d_an."""
    return _of_differences_forward(formula, window, distances, margin, block)[0]


def _of_differences_forward(
    formula: Formula, window: Window, distances: Array, margin: Array, block: Block
) -> Any:
    forward = _hinge_forward if formula.kind == "hinge" else _smooth_forward
    return forward(formula, window, distances, margin, block)


def _of_differences_backward(formula: Formula, window: Window, residuals: Any, cotangents: Terms) -> Any:
    gradient, of_margin = residuals
    return gradient * cotangents.value, of_margin * cotangents.value, None


_of_differences.defvjp(_of_differences_forward, _of_differences_backward)


def _positives(k: Array, distances: Array, block: Block) -> tuple[Array, Array, Array]:
    """Columns of the next few positives, which of them are to be used, and their distances, each [b, AT_ONCE]."""
    places = k + jnp.arange(AT_ONCE, dtype=jnp.int32)
    column, exists = column_of_positive(places[None, :], block.anchor_facts, block.candidate_facts)
    use = exists & jnp.take_along_axis(block.positive, column, axis=1)
    return column, use, jnp.take_along_axis(distances, column, axis=1)


def _over_positives(step: Callable[[Array, Any], Any], block: Block, sums: Any, at_once: int = 1) -> Any:
    """The last sums of step(k, sums) -> sums, for k = 0, at_once, ... up to the greatest number of positives."""
    last = jnp.max(block.anchor_facts.size)

    def turn(carry: Any) -> Any:
        k, sums = carry
        return k + at_once, step(k, sums)

    return jax.lax.while_loop(lambda carry: carry[0] < last, turn, (jnp.int32(0), sums))[1]


def _hinge_forward(formula: Formula, window: Window, distances: Array, margin: Array, block: Block) -> Any:
    """The gradient along a distance is the number of violating triplets it is in; these numbers give the value.

    The sum of d_ap + margin - d_an over violating triplets is the sum over p of (d_ap + margin) times its number,
    less the sum over n of d_an times its number: no pass over triplets is spent on it.
    """
    row = jnp.arange(distances.shape[0])[:, None]
    far = jnp.where(block.negative, distances, jnp.inf)
    # Both sums are taken relative to a limit of the anchor, so that they do not cancel.
    _, use, d_ap = _positives(jnp.int32(0), distances, block)
    centre = jnp.max(jnp.where(use, d_ap, 0.0), axis=1, keepdims=True) + margin

    def step(k: Array, sums: Any) -> Any:
        value, active, gradient = sums
        column, use, d_ap = _positives(k, distances, block)
        limit = d_ap + margin
        low, high = window(Near(d_ap, d_ap, d_ap), margin)
        high = jnp.where(use, limit if high is None else jnp.minimum(high, limit), -jnp.inf)
        high = jax.lax.optimization_barrier(high)  # computed once, not for each entry compared with it

        def violates(j: int, d: Array) -> Array:
            below = d < high[:, j : j + 1]
            return below if low is None else below & (d > low[:, j : j + 1])

        conditions = [partial(violates, j) for j in range(AT_ONCE)]
        number = row_counts(far, conditions).astype(jnp.float32)
        gradient = gradient - reduce(jnp.add, (c(far).astype(jnp.float32) for c in conditions))
        gradient = gradient.at[row, column].add(number)
        value = value + jnp.sum(jnp.where(use, number * (limit - centre), 0.0))
        return value, active + jnp.sum(number), gradient

    zero = zeros_like(distances[0, 0])
    sums = zero, zero, zeros_like(distances)
    value, active, gradient = _over_positives(step, block, sums, AT_ONCE)
    value = value + jnp.sum(jnp.where(block.negative, gradient * (distances - centre), 0.0))
    mined = active
    if window is anywhere:
        positives, negatives = (row_count(m).astype(jnp.float32) for m in (block.positive, block.negative))
        mined = jnp.sum(positives * negatives)
    return Terms(value, active, mined), (gradient, active)


def _smooth_forward(formula: Formula, window: Window, distances: Array, margin: Array, block: Block) -> Any:
    row = jnp.arange(distances.shape[0])
    far = jnp.where(block.negative, distances, jnp.inf)

    def step(k: Array, sums: Any) -> Any:
        value, mined, gradient = sums
        column, exists = column_of_positive(k, block.anchor_facts, block.candidate_facts)
        use = exists & block.positive[row, column]
        d_ap = distances[row, column][:, None]
        inside = _inside(far, window(Near(d_ap, d_ap, d_ap), margin), use[:, None])
        x = jnp.where(inside, formula.shifted(d_ap, margin) - far, 0.0)
        # The barrier: two sums use the slopes, and each would compute them anew.
        slopes = jax.lax.optimization_barrier(jnp.where(inside, formula.slope(x), 0.0))
        value = value + jnp.sum(jnp.where(inside, formula.value(x), 0.0))
        mined = mined + jnp.sum(row_count(inside).astype(jnp.float32))
        return value, mined, (gradient - slopes).at[row, column].add(jnp.sum(slopes, axis=1))

    zero = zeros_like(distances[0, 0])
    value, mined, gradient = _over_positives(step, block, (zero, zero, zeros_like(distances)))
    of_margin = -jnp.sum(jnp.where(block.negative, gradient, 0.0)) if formula.has_margin else zero
    return Terms(value, mined, mined), (gradient, of_margin)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _of_three(
    formula: Formula,
    window: Window,
    symmetric: bool,
    distances: Array,
    candidates: Array,
    margin: Array,
    block: Block,
) -> Terms:
    """`terms` of a formula of three distances.

    Rows of d_pn are computed anew for each positive, unless the block holds them; so memory stays O(b M).

    Args:
        formula: one of three distances.
        window: which negatives are mined.
        symmetric: for each triplet (a, p, n) summed over all blocks and devices, (p, a, n) is summed as well.
            The gradient along d_pn of one is then the gradient along d_an of the other.
        distances: float32 [b, M].
        candidates: float32 [M, D], which get a gradient; the same as those of the block.
        margin: float32 [].
        block: as in `terms`.
    """
    return _of_three_forward(formula, window, symmetric, distances, candidates, margin, block)[0]


def _of_three_forward(
    formula: Formula,
    window: Window,
    symmetric: bool,
    distances: Array,
    candidates: Array,
    margin: Array,
    block: Block,
) -> Any:
    row = jnp.arange(distances.shape[0])
    far = jnp.where(block.negative, distances, jnp.inf)

    def step(k: Array, sums: Any) -> Any:
        sums, of_margin, gradient, of_candidates = sums
        column, exists = column_of_positive(k, block.anchor_facts, block.candidate_facts)
        use = exists & block.positive[row, column]
        d_ap = distances[row, column][:, None]

        def d_from_positives(candidates: Array) -> Array:
            return pairwise(candidates[column], candidates, block.measure)

        if symmetric and block.is_whole_batch:
            d_pn = distances[column]
        elif symmetric:
            d_pn = d_from_positives(candidates)
        else:
            d_pn, pullback = jax.vjp(d_from_positives, candidates)
        inside = _inside(far, window(Near(d_ap, d_ap, d_ap), margin), use[:, None])
        values = jnp.where(inside, formula.value(d_ap, distances, d_pn, margin), 0.0)
        of_ap, of_an = formula.slope(d_ap, distances, d_pn, margin)
        of_ap_inside, of_an = (jnp.where(inside, slope, 0.0) for slope in (of_ap, of_an))
        numbers = row_count(inside).astype(jnp.float32)
        of_anchor = jnp.sum(of_ap_inside, axis=1) if jnp.ndim(of_ap) else of_ap * numbers
        gradient = (gradient - (2.0 if symmetric else 1.0) * of_an).at[row, column].add(of_anchor)
        if not symmetric:
            (more,) = pullback(of_an - of_ap_inside)
            of_candidates = of_candidates + more
        mined = jnp.sum(numbers)
        active = count(values > 0) if formula.kind == "hinge" else mined
        sums = jax.tree.map(jnp.add, sums, Terms(jnp.sum(values), active, mined))
        return sums, of_margin + jnp.sum(of_anchor), gradient, of_candidates

    zero = zeros_like(distances[0, 0])
    start = Terms(zero, zero, zero), zero, zeros_like(distances), zeros_like(candidates)
    sums, of_margin, gradient, of_candidates = _over_positives(step, block, start)
    return sums, (gradient, of_candidates, of_margin if formula.has_margin else zero)


def _of_three_backward(
    formula: Formula, window: Window, symmetric: bool, residuals: Any, cotangents: Terms
) -> Any:
    return *(g * cotangents.value for g in residuals), None


_of_three.defvjp(_of_three_forward, _of_three_backward)
