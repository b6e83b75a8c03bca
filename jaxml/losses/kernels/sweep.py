"""All triplets of a block of anchors in one sweep over their positives: never a cube, never a list of indices.

For one or a few positives at a time, each anchor's row of negative distances is compared with the positives' distances.
Value and gradient come from the same sweep: for the hinge the gradient is a count of the triplets that violate it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxml.distances import pairwise
from jaxml.losses.kernels import formulas, mining
from jaxml.losses.kernels.blocks import Block, is_whole_batch, zeros_like

Array = jax.Array

AT_ONCE = 4
"""Positives compared in one pass over the negatives' distances: the fewest passes that registers still hold."""

Formula = Callable[[Array], Array]

WINDOWS = ("all", "semi_hard", "original_semi_hard")


class Sums(NamedTuple):
    """Sums over the triplets of a block."""

    value: Array
    active: Array
    """Triplets above zero for the hinges, all mined triplets for the smooth formulas."""
    mined: Array


def window(kind: str, d_ap: Array, margin: Array) -> tuple[Array | None, Array | None]:
    """Bounds of d_an, both exclusive, between which a negative is mined; None is no bound.

    semi_hard: d_ap < d_an < d_ap + margin; original_semi_hard: d_an < d_ap; all: none.
    """
    if kind == "semi_hard":
        return d_ap, d_ap + margin
    return None, d_ap if kind == "original_semi_hard" else None


def _inside(d: Array, bounds: tuple[Array | None, Array | None], use: Array) -> Array:
    low, high = bounds
    inside = (d < jnp.inf) & use
    if low is not None:
        inside &= d > low
    return inside if high is None else inside & (d < high)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def triplets(formula: str, kind: str, distances: Array, margin: Array, block: Block) -> Sums:
    """Sums over all triplets of a block, for a formula of d_ap - d_an and a window of negatives.

    Args:
        formula: a key of formulas.OF_DIFFERENCE.
        kind: one of WINDOWS.
        distances: float32 [b, M], squared for squared_hinge.
        margin: float32 scalar.
        block: positives are taken from block.masks.positive among the candidates of the anchor's label.
    """
    return _triplets_forward(formula, kind, distances, margin, block)[0]


def _triplets_forward(formula: str, kind: str, distances: Array, margin: Array, block: Block) -> Any:
    if formula in formulas.HINGES:
        return _hinge_forward(kind, distances, margin, block)
    return _smooth_forward(formula, kind, distances, margin, block)


def _positives(k: Array, distances: Array, block: Block) -> tuple[Array, Array, Array]:
    """Columns of the next few positives, which of them are to be used, and their distances, each [b, AT_ONCE]."""
    places = k + jnp.arange(AT_ONCE, dtype=jnp.int32)
    column, exists = mining.column_of_positive(places[None, :], block.anchors, block.candidates)
    use = exists & jnp.take_along_axis(block.masks.positive, column, axis=1)
    return column, use, jnp.take_along_axis(distances, column, axis=1)


def _hinge_forward(kind: str, distances: Array, margin: Array, block: Block) -> Any:
    """The gradient along a distance is the number of violating triplets it is in; these numbers give the value.

    The sum of d_ap + margin - d_an over violating triplets is the sum over p of (d_ap + margin) times its number,
    less the sum over n of d_an times its number: no pass over triplets is spent on it.
    """
    positive, negative = block.masks
    rows = jnp.arange(distances.shape[0])[:, None]
    far = jnp.where(negative, distances, jnp.inf)
    # Both sums are taken relative to a limit of the anchor's, lest they cancel.
    _, use, d_ap = _positives(jnp.int32(0), distances, block)
    centre = jnp.max(jnp.where(use, d_ap, 0.0), axis=1, keepdims=True) + margin

    def step(carry: Any) -> Any:
        k, value, active, gradient = carry
        column, use, d_ap = _positives(k, distances, block)
        limit = d_ap + margin
        low, high = window(kind, d_ap, margin)
        high = jnp.where(use, limit if high is None else jnp.minimum(high, limit), -jnp.inf)
        high = jax.lax.optimization_barrier(high)  # computed once, not for each entry compared with it

        def violates(j: int, d: Array) -> Array:
            below = d < high[:, j : j + 1]
            return below if low is None else below & (d > low[:, j : j + 1])

        conditions = [partial(violates, j) for j in range(AT_ONCE)]
        number = mining.row_counts(far, conditions).astype(jnp.float32)
        gradient = gradient - reduce(jnp.add, (c(far).astype(jnp.float32) for c in conditions))
        gradient = gradient.at[rows, column].add(number)
        value = value + jnp.sum(jnp.where(use, number * (limit - centre), 0.0))
        return k + AT_ONCE, value, active + jnp.sum(number), gradient

    zero = zeros_like(distances[0, 0])
    last = jnp.max(block.anchors.size)
    start = (jnp.int32(0), zero, zero, zeros_like(distances))
    _, value, active, gradient = jax.lax.while_loop(lambda carry: carry[0] < last, step, start)
    value = value + jnp.sum(jnp.where(negative, gradient * (distances - centre), 0.0))
    mined = active
    if kind == "all":
        positives, negatives = (mining.row_count(m).astype(jnp.float32) for m in (positive, negative))
        mined = jnp.sum(positives * negatives)
    return Sums(value, active, mined), (gradient, active)


def _smooth_forward(formula: str, kind: str, distances: Array, margin: Array, block: Block) -> Any:
    rows = jnp.arange(distances.shape[0])
    far = jnp.where(block.masks.negative, distances, jnp.inf)
    value_of, slope_of = formulas.OF_DIFFERENCE[formula][:2]

    def step(carry: Any) -> Any:
        k, value, mined, gradient = carry
        column, exists = mining.column_of_positive(k, block.anchors, block.candidates)
        use = exists & block.masks.positive[rows, column]
        d_ap = distances[rows, column][:, None]
        inside = _inside(far, window(kind, d_ap, margin), use[:, None])
        x = jnp.where(inside, d_ap - far, 0.0)
        # The barrier: two sums use the slopes, and each would compute them anew.
        slopes = jax.lax.optimization_barrier(jnp.where(inside, slope_of(x), 0.0))
        value = value + jnp.sum(jnp.where(inside, value_of(x), 0.0))
        mined = mined + jnp.sum(mining.row_count(inside).astype(jnp.float32))
        gradient = (gradient - slopes).at[rows, column].add(jnp.sum(slopes, axis=1))
        return k + 1, value, mined, gradient

    zero = zeros_like(distances[0, 0])
    last = jnp.max(block.anchors.size)
    start = (jnp.int32(0), zero, zero, zeros_like(distances))
    _, value, mined, gradient = jax.lax.while_loop(lambda carry: carry[0] < last, step, start)
    return Sums(value, mined, mined), (gradient, zero)


def _triplets_backward(formula: str, kind: str, residuals: Any, cotangents: Sums) -> Any:
    gradient, of_margin = residuals
    return gradient * cotangents.value, of_margin * cotangents.value, None


triplets.defvjp(_triplets_forward, _triplets_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def soft_triplets(
    kind: str,
    distance: str,
    symmetric: bool,
    distances: Array,
    references: Array,
    margin: Array,
    block: Block,
) -> Sums:
    """Sums of d_ap + log(e^{margin - d_an} + e^{margin - d_pn}) over all triplets of a block.

    Rows of d_pn are computed anew for each positive, unless the block holds them; so memory stays O(b M).

    Args:
        kind: one of WINDOWS.
        distance: as in `pairwise`.
        symmetric: for each triplet (a, p, n) summed over all blocks and devices, (p, a, n) is summed as well.
            The gradient along d_pn of one is then the gradient along d_an of the other.
        distances: float32 [b, M].
        references: float32 [M, D], the candidates.
        margin: float32 scalar.
        block: as in `triplets`.
    """
    return _soft_forward(kind, distance, symmetric, distances, references, margin, block)[0]


def _soft_forward(
    kind: str,
    distance: str,
    symmetric: bool,
    distances: Array,
    references: Array,
    margin: Array,
    block: Block,
) -> Any:
    anchors, candidates, (positive, negative), _ = block
    rows = jnp.arange(distances.shape[0])
    far = jnp.where(negative, distances, jnp.inf)

    def step(carry: Any) -> Any:
        k, value, mined, gradient, of_references = carry
        column, exists = mining.column_of_positive(k, anchors, candidates)
        use = exists & positive[rows, column]
        d_ap = distances[rows, column][:, None]

        def d_from_positives(references: Array) -> Array:
            return pairwise(references[column], references, distance)

        if symmetric and is_whole_batch(distances, references, candidates):
            d_pn = distances[column]
        elif symmetric:
            d_pn = d_from_positives(references)
        else:
            d_pn, pullback = jax.vjp(d_from_positives, references)
        inside = _inside(far, window(kind, d_ap, margin), use[:, None])
        nearer = jnp.minimum(distances, d_pn)
        e = jnp.exp(-jnp.abs(distances - d_pn))
        share = jnp.where(distances < d_pn, 1.0, e) / (1.0 + e)  # of d_an; d_pn has the rest
        terms = jnp.where(inside, d_ap + margin - nearer + formulas.log1p(e), 0.0)
        share = jnp.where(inside, share, 0.0)
        n = mining.row_count(inside).astype(jnp.float32)
        gradient = (gradient - (2.0 if symmetric else 1.0) * share).at[rows, column].add(n)
        if not symmetric:
            (more,) = pullback(share - inside.astype(jnp.float32))
            of_references = of_references + more
        return k + 1, value + jnp.sum(terms), mined + jnp.sum(n), gradient, of_references

    zero = zeros_like(distances[0, 0])
    last = jnp.max(anchors.size)
    start = (jnp.int32(0), zero, zero, zeros_like(distances), zeros_like(references))
    _, value, mined, gradient, of_references = jax.lax.while_loop(lambda carry: carry[0] < last, step, start)
    return Sums(value, mined, mined), (gradient, of_references, mined)


def _soft_backward(kind: str, distance: str, symmetric: bool, residuals: Any, cotangents: Sums) -> Any:
    return *(g * cotangents.value for g in residuals), None


soft_triplets.defvjp(_soft_forward, _soft_backward)
