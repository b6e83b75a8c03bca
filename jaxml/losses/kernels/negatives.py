"""Mining of one negative: the nearest to an anchor, or one for each of its positives, by distance or drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxml.distances import l2_normalize, pairwise, rowwise
from jaxml.losses.kernels import reductions
from jaxml.losses.kernels.blocks import Block, Terms
from jaxml.losses.kernels.devices import zeros_like
from jaxml.losses.kernels.formulas import Formula, Options
from jaxml.losses.kernels.reductions import at, count, row_counts
from jaxml.losses.kernels.relations import column_of_positive

Array = jax.Array


def nearest(formula: Formula, distances: Array, block: Block, options: Options) -> Terms:
    """Every mined positive of an anchor, with the anchor's nearest negative; distances are float32 [b, M]."""
    n, some_negative = reductions.nearest(distances, block.negative)
    d_ap, d_an = distances, at(distances, n)
    d_pn = None
    if block.column is None:
        d_an, chosen = d_an[:, None], block.positive & some_negative[:, None]
        if formula.of_three:
            d_pn = pairwise(block.candidates[n], block.candidates, block.measure)
    else:
        p, some_positive = block.column, block.anchor_facts.size > 0
        d_ap, chosen = at(distances, p), some_positive & some_negative
        if formula.of_three:
            d_pn = rowwise(block.candidates[p], block.candidates[n], block.measure)
    return _chosen(formula, formula.of(d_ap, d_an, d_pn, options.margin), chosen)


def nearest_semi_hard(formula: Formula, distances: Array, block: Block, options: Options) -> Terms:
    """Every mined positive, each with the nearest negative that is farther, or with the farthest one if none is."""
    far = jnp.where(block.negative, jax.lax.stop_gradient(distances), jnp.inf)
    farthest, some = reductions.farthest(distances, block.negative)
    return _one_each(_choose_semi_hard, (far, farthest, some), formula, distances, block, options)


def _choose_semi_hard(k: Array, d_ap: Array, facts: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    far, farthest, some = facts
    column, exists = reductions.nearest(far, (far > d_ap[:, None]) & (far < jnp.inf))
    return jnp.where(exists, column, farthest), some


def drawn(formula: Formula, distances: Array, block: Block, options: Options) -> Terms:
    """Every mined positive, each with one negative drawn by its distance; distances are float32 [b, M]."""
    weights = distance_weights(block, options.cutoff, options.upper_cutoff)
    return _one_each(choose_drawn, draws(weights, block), formula, distances, block, options)


def _one_each(
    choose: Choose, facts: Any, formula: Formula, distances: Array, block: Block, options: Options
) -> Terms:
    """Every mined positive, each with the one negative that is chosen for it."""
    other = block.measure if formula.of_three else None
    terms = partial(_of_one, formula)
    return one_each(choose, terms, other, distances, block.candidates, options.margin, facts, block)


def _of_one(
    formula: Formula, d_ap: Array, d_an: Array, d_pn: Array | None, margin: Array, chosen: Array
) -> Terms:
    return _chosen(formula, formula.of(d_ap, d_an, d_pn, margin), chosen)


def _chosen(formula: Formula, values: Array, chosen: Array) -> Terms:
    """Sums of values of triplets, float32 [...], over the chosen ones, bool [...]."""
    values = jnp.where(chosen, values, 0.0)
    mined = count(chosen)
    return Terms(jnp.sum(values), count(values > 0) if formula.kind == "hinge" else mined, mined)


Choose = Callable[[Array, Array, Any], tuple[Array, Array]]
"""choose(k, d_ap [b], facts) -> column of the negative for the k-th positive of each anchor, and whether there is one,
int32 [b] and bool [b]."""

OneEach = Callable[[Array, Array, Array | None, Any, Array], Terms]
"""terms(d_ap, d_an, d_pn or None, options, chosen) -> sums over one triplet per anchor; arrays [b], chosen bool."""


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def one_each(
    choose: Choose,
    terms: OneEach,
    other: str | None,
    distances: Array,
    candidates: Array,
    options: Any,
    facts: Any,
    block: Block,
) -> Terms:
    """Every positive, each with one negative.

    Args:
        choose: finds the negative of each positive; a static argument.
        terms: sums over one triplet per anchor; a static argument.
        other: distance of d_pn; None if the function needs none.
        distances: float32 [b, M].
        candidates: float32 [M, D].
        options: float arrays with gradient, for `terms`.
        facts: arrays for `choose`, without gradient.
        block: the block of anchors.
    """
    return _one_each_forward(choose, terms, other, distances, candidates, options, facts, block)[0]


def _one_each_forward(
    choose: Choose,
    terms: OneEach,
    other: str | None,
    distances: Array,
    candidates: Array,
    options: Any,
    facts: Any,
    block: Block,
) -> Any:
    row = jnp.arange(distances.shape[0])

    def step(carry: Any) -> Any:
        k, sums, gradients = carry
        p, exists = column_of_positive(k, block.anchor_facts, block.candidate_facts)
        n, some_negative = choose(k, distances[row, p], facts)
        chosen = exists & block.positive[row, p] & some_negative

        def of_triplets(distances: Array, candidates: Array, options: Any) -> tuple[Array, Terms]:
            d_pn = rowwise(candidates[p], candidates[n], other) if other else None
            sums = terms(distances[row, p], distances[row, n], d_pn, options, chosen)
            return sums.value, sums

        value, pullback, more = jax.vjp(of_triplets, distances, candidates, options, has_aux=True)
        more_gradients = pullback(jnp.ones_like(value))
        return k + 1, *jax.tree.map(jnp.add, (sums, gradients), (more, more_gradients))

    zero = zeros_like(distances[0, 0])
    zeros = jax.tree.map(zeros_like, (distances, candidates, options))
    start = (jnp.int32(0), Terms(zero, zero, zero), zeros)
    last = jnp.max(block.anchor_facts.size)
    _, sums, gradients = jax.lax.while_loop(lambda carry: carry[0] < last, step, start)
    return sums, gradients


def _one_each_backward(
    choose: Choose, terms: OneEach, other: str | None, gradients: Any, cotangents: Terms
) -> Any:
    return *jax.tree.map(lambda g: g * cotangents.value, gradients), None, None


one_each.defvjp(_one_each_forward, _one_each_backward)


class Draws(NamedTuple):
    """What `choose_drawn` draws from."""

    cumulative: Array
    """float32 [b, M]: sums of the weights of the negatives."""
    keys: Array
    """A random key for each anchor, [b]."""


def draws(weights: Array, block: Block) -> Draws:
    """Negatives to draw in proportion to their weights, float32 [b, M], 0 except at negatives."""
    assert block.seeds is not None
    return Draws(jnp.cumsum(weights, axis=1), jax.vmap(jax.random.key)(block.seeds))


def choose_drawn(k: Array, d_ap: Array, facts: Draws) -> tuple[Array, Array]:
    """A negative drawn for each positive; it depends on the anchor's seed and on k, not on the block."""
    total = facts.cumulative[:, -1]
    u = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, k), dtype=jnp.float32))(facts.keys)
    # Short of the total, which rounding could reach: beyond it lies no negative.
    limit = (u * total * (1.0 - 1e-6))[:, None]
    return row_counts(facts.cumulative, [lambda c: c <= limit])[:, 0], total > 0


def seeds(key: Array, ids: Array) -> Array:
    """A uint32 for each anchor, from its place in the global batch, so that draws do not depend on devices or blocks.

    Args:
        key: random key [].
        ids: int32 [B].

    Returns:
        uint32 [B].
    """
    return jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i), dtype=jnp.uint32))(ids)


def distance_weights(block: Block, cutoff: Array | float, upper_cutoff: Array | float) -> Array:
    """Weights of negatives for `draws`, from the distances of unit vectors, float32 [b, M]; no gradient."""
    d = pairwise(l2_normalize(block.x), l2_normalize(block.candidates))
    log = log_weights(d, block.x.shape[1], cutoff, upper_cutoff)
    log = jax.lax.stop_gradient(jnp.where(block.negative, log, -jnp.inf))
    top = jnp.max(log, axis=1, keepdims=True)
    return jnp.exp(log - jnp.where(top > -jnp.inf, top, 0.0))


def log_weights(distances: Array, width: int, cutoff: Array | float, upper: Array | float) -> Array:
    """Logarithm of the distance-weighted sampling weights, up to a constant; float32 in the shape of the distances.

    1 / q(max(d, cutoff)) for d < upper, else 0; q(d) ~ d^{n-2} (1 - d^2/4)^{(n-3)/2} is the density of distances
    between points spread evenly over the unit sphere in n = `width` dimensions.

    Source: Wu et al. 2017, Sampling Matters in Deep Embedding Learning, equations 3-5. The upper cut-off is in
    their code, not in the paper. An anchor without a negative below it has no weight, and is skipped.
    """
    d = jnp.maximum(distances, cutoff)
    weight = -(width - 2.0) * jnp.log(d) - (width - 3.0) / 2.0 * jnp.log(jnp.maximum(1.0 - d * d / 4.0, 1e-8))
    return jnp.where(distances < upper, weight, -jnp.inf)
