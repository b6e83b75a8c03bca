"""Losses over the pairs of a batch: contrastive and multi-similarity."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.distances import DISTANCES, largest, pairwise
from jaxml.losses import blocks, checks, rows

Array = jax.Array
Aux = dict[str, Array]


def contrastive(
    embeddings: Array,
    labels: Array,
    *,
    margin: float | Array = 1.0,
    power: int = 2,
    distance: str = "euclidean",
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Pull positive pairs together, push negative pairs a margin apart.

    mean_p d_ap^power / power + mean_n max(0, margin - d_an)^power / power.

    Reduction: mean over all positive pairs plus mean over all negative pairs; 0 for a kind that is missing.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B].
        margin: at least 0, in units of the distance.
        power: 2 as in the paper, or 1 as in pytorch-metric-learning.
        distance: euclidean, squared or cosine.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (non-zero) and `valid` (all) pairs.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Hadsell, Chopra & LeCun 2006, Dimensionality Reduction by Learning an Invariant Mapping, equation 4,
    which sums over given pairs.
    """
    x, y, r = checks.batch(embeddings, labels, references, reference_labels, reference_mask, axis_name)
    checks.number("margin", margin, minimum=0.0)
    checks.choice("power", power, (1, 2))
    checks.choice("distance", distance, DISTANCES)
    checks.block_size(block_size)
    return _contrastive(x, y, r, margin, power, distance, block_size, axis_name)


@partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _contrastive(
    x: Array,
    labels: Array,
    references: blocks.References | None,
    margin: Array,
    power: int,
    distance: str,
    block_size: int | None,
    axis_name: str | None,
) -> tuple[Array, Aux]:
    batch = blocks.batch(x, labels, references, axis_name)
    positives, negatives = blocks.pair_counts(batch)
    weights = blocks.ratio(1.0, positives) / power, blocks.ratio(1.0, negatives) / power
    function = partial(_contrastive_rows, power, distance)
    options = (margin, *weights)
    bound = largest(batch.x, batch.found, distance)
    loss, aux = blocks.sum_rows(function, batch, options, bound=bound, block_size=block_size)
    return loss, {**aux, "valid": positives + negatives}


def _contrastive_rows(
    power: int, distance: str, x: Array, found: Array, options: Any, block: blocks.Block
) -> tuple[Array, Aux]:
    margin, positive_weight, negative_weight = options
    d = pairwise(x, found, distance)
    short = margin - d
    positive, negative = block.masks.positive & (d > 0), block.masks.negative & (short > 0)
    value = jnp.where(positive, positive_weight * d**power, 0.0)
    value += jnp.where(negative, negative_weight * short**power, 0.0)
    return jnp.sum(value), {"active": blocks.count(positive | negative)}


def multi_similarity(
    embeddings: Array,
    labels: Array,
    *,
    alpha: float | Array = 2.0,
    beta: float | Array = 50.0,
    base: float | Array = 0.5,
    epsilon: float | Array = 0.1,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Weigh each hard pair by its own cosine similarity and by those of its neighbours.

    1/alpha log(1 + sum_p e^{-alpha (s_ap - base)}) + 1/beta log(1 + sum_n e^{beta (s_an - base)}), over positives
    with s_ap - epsilon < max_n s_an and negatives with s_an + epsilon > min_p s_ap.

    Reduction: mean over all anchors; those without such pairs add 0.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B].
        alpha: above 0, sharpness for positives.
        beta: above 0, sharpness for negatives.
        base: similarity from which pairs weigh heavily.
        epsilon: how far from violating a pair may be; more than 2 takes all.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (mined) and `valid` (all) pairs.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Wang et al. 2019, Multi-Similarity Loss, equations 11, 13 and 15; defaults from its section 4 and
    code (base 0.5; the paper says 1).
    """
    x, y, r = checks.batch(embeddings, labels, references, reference_labels, reference_mask, axis_name)
    checks.number("alpha", alpha, above=0.0)
    checks.number("beta", beta, above=0.0)
    checks.number("base", base)
    checks.number("epsilon", epsilon, minimum=0.0)
    checks.block_size(block_size)
    return _multi_similarity(x, y, r, (alpha, beta, base, epsilon), block_size, axis_name)


@partial(jax.jit, static_argnums=(4, 5))
def _multi_similarity(
    x: Array,
    labels: Array,
    references: blocks.References | None,
    options: Any,
    block_size: int | None,
    axis_name: str | None,
) -> tuple[Array, Aux]:
    batch = blocks.batch(x, labels, references, axis_name)
    bound = largest(batch.x, batch.found, "cosine")
    loss, aux = blocks.sum_rows(_multi_similarity_rows, batch, options, bound=bound, block_size=block_size)
    anchors = aux.pop("anchors")
    positives, negatives = blocks.pair_counts(batch)
    return loss / anchors, {**aux, "valid": positives + negatives}


def _multi_similarity_rows(x: Array, found: Array, options: Any, block: blocks.Block) -> tuple[Array, Aux]:
    alpha, beta, base, epsilon = options
    s = 1.0 - pairwise(x, found, "cosine")
    positive, negative = block.masks
    nearest = jnp.max(jnp.where(negative, s, -jnp.inf), axis=1, keepdims=True)
    farthest = jnp.min(jnp.where(positive, s, jnp.inf), axis=1, keepdims=True)
    positive = positive & (s - epsilon < nearest)
    negative = negative & (s + epsilon > farthest)
    value = rows.log1p_sum_exp(-alpha * (s - base), positive) / alpha
    value += rows.log1p_sum_exp(beta * (s - base), negative) / beta
    anchors = blocks.count(block.anchors.real)
    return jnp.sum(value), {"active": blocks.count(positive | negative), "anchors": anchors}
