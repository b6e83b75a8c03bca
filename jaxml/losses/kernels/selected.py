"""Triplets with one negative per anchor, or one per pair of anchor and positive."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.distances import l2_normalize, pairwise, rowwise
from jaxml.losses.kernels import formulas, mining
from jaxml.losses.kernels.blocks import Block, count, zeros_like
from jaxml.losses.kernels.sweep import Sums

Array = jax.Array


def _sums(formula: str, values: Array, chosen: Array) -> Sums:
    values = jnp.where(chosen, values, 0.0)
    mined = count(chosen)
    return Sums(jnp.sum(values), count(values > 0) if formula in formulas.HINGES else mined, mined)


def hardest(
    formula: str, distance: str, distances: Array, references: Array, margin: Array, block: Block
) -> Sums:
    """Every positive of an anchor, with the anchor's nearest negative."""
    positive, negative = block.masks
    column, exists = mining.nearest(distances, negative)
    d_an = jnp.take_along_axis(distances, column[:, None], axis=1)
    d_pn = pairwise(references[column], references, distance) if formula == "soft" else None
    chosen = positive & exists[:, None]
    return _sums(formula, formulas.values(formula, distances, d_an, d_pn, margin), chosen)


def batch_hard(
    formula: str, distance: str, distances: Array, references: Array, margin: Array, block: Block
) -> Sums:
    """One triplet per anchor: the farthest positive, the nearest negative."""
    positive, negative = block.masks
    p, some_positive = mining.farthest(distances, positive)
    n, some_negative = mining.nearest(distances, negative)
    d_pn = rowwise(references[p], references[n], distance) if formula == "soft" else None
    values = formulas.values(formula, mining.at(distances, p), mining.at(distances, n), d_pn, margin)
    return _sums(formula, values, some_positive & some_negative)


Sample = Callable[[Array, Array, Array | None, Any, Array], Sums]
"""sums(d_ap [b], d_an [b], d_pn [b] or None, options, chosen [b])."""


def triplet_sums(
    formula: str, d_ap: Array, d_an: Array, d_pn: Array | None, options: dict[str, Array], chosen: Array
) -> Sums:
    """Sums over chosen triplets, for `sampled`."""
    return _sums(formula, formulas.values(formula, d_ap, d_an, d_pn, options["margin"]), chosen)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sampled(
    function: Sample,
    other: str | None,
    distances: Array,
    references: Array,
    options: Any,
    weights: Array,
    block: Block,
) -> Sums:
    """Every positive, each with one negative drawn in proportion to weights [b, M].

    Draws depend on block.extra["seeds"], a uint32 [b], and on the positive's place among the anchor's; not on
    the block.

    Args:
        function: sums over one triplet per anchor; a static argument.
        other: distance of d_pn; None if the function needs none.
        distances: float32 [b, M].
        references: float32 [M, D].
        options: float arrays with gradient, for `function`.
        weights: float32 [b, M], 0 except at negatives.
        block: the block of anchors.
    """
    return _sampled_forward(function, other, distances, references, options, weights, block)[0]


def _sampled_forward(
    function: Sample,
    other: str | None,
    distances: Array,
    references: Array,
    options: Any,
    weights: Array,
    block: Block,
) -> Any:
    anchors, candidates, (positive, _), extra = block
    rows = jnp.arange(distances.shape[0])
    cumulative = jnp.cumsum(weights, axis=1)
    total = cumulative[:, -1]
    keys = jax.vmap(jax.random.key)(extra["seeds"])

    def step(carry: Any) -> Any:
        k, sums, gradients = carry
        p, exists = mining.column_of_positive(k, anchors, candidates)
        chosen = exists & positive[rows, p] & (total > 0)
        u = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, k)))(keys)
        # Short of the total, which rounding could reach: beyond it lies no negative.
        limit = (u * total * (1.0 - 1e-6))[:, None]
        n = mining.row_counts(cumulative, [lambda c: c <= limit])[:, 0]

        def terms(distances: Array, references: Array, options: Any) -> tuple[Array, Sums]:
            d_pn = rowwise(references[p], references[n], other) if other else None
            sums = function(distances[rows, p], distances[rows, n], d_pn, options, chosen)
            return sums.value, sums

        value, pullback, more = jax.vjp(terms, distances, references, options, has_aux=True)
        more_gradients = pullback(jnp.ones_like(value))
        return k + 1, *jax.tree.map(jnp.add, (sums, gradients), (more, more_gradients))

    zero = zeros_like(distances[0, 0])
    zeros = jax.tree.map(zeros_like, (distances, references, options))
    start = (jnp.int32(0), Sums(zero, zero, zero), zeros)
    last = jnp.max(anchors.size)
    _, sums, gradients = jax.lax.while_loop(lambda carry: carry[0] < last, step, start)
    return sums, gradients


def _sampled_backward(function: Sample, other: str | None, gradients: Any, cotangents: Sums) -> Any:
    return *jax.tree.map(lambda g: g * cotangents.value, gradients), None, None


sampled.defvjp(_sampled_forward, _sampled_backward)


def seeds(key: Array, ids: Array) -> Array:
    """A uint32 per anchor from its place in the global batch, so that draws do not depend on devices or blocks."""
    return jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i)))(ids)


def distance_weights(x: Array, references: Array, options: dict[str, Array], block: Block) -> Array:
    """Weights [b, M] of negatives for `sampled`, from the distances between unit vectors; no gradient."""
    d = pairwise(l2_normalize(x), l2_normalize(references))
    log_weights = mining.log_weights(d, x.shape[1], options["cutoff"], options["upper_cutoff"])
    log_weights = jax.lax.stop_gradient(jnp.where(block.masks.negative, log_weights, -jnp.inf))
    top = jnp.max(log_weights, axis=1, keepdims=True)
    return jnp.exp(log_weights - jnp.where(top > -jnp.inf, top, 0.0))
