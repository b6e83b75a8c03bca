"""Losses over the pairs of a batch: contrastive and multi-similarity."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxml.distances import DISTANCES
from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Sides, Terms
from jaxml.losses.kernels.comparison import Each, compare, mean, numbers_of_pairs
from jaxml.losses.kernels.devices import over_devices
from jaxml.losses.kernels.reductions import count, log_sums_exp, ratio, row_count
from jaxml.losses.kernels.relations import Masks
from jaxml.losses.kernels.types import Aux


def contrastive(
    embeddings: Array,
    labels: Array | Masks,
    *,
    margin: float | Array = 1.0,
    positive_margin: float | Array = 0.0,
    power: int = 2,
    distance: str = "euclidean",
    reduction: str = "all",
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Pull positive pairs together, push negative pairs a margin apart.

    mean_p max(0, d_ap - positive_margin)^power / power + mean_n max(0, margin - d_an)^power / power.

    Reduction: mean over positive pairs plus mean over negative pairs; 0 for a kind that is missing.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        margin: at least 0, in units of the distance.
        positive_margin: at least 0, the distance up to which positive pairs are left alone, in the same units.
        power: 2 as in the paper, or 1 as in pytorch-metric-learning.
        distance: euclidean, squared, cosine, snr, manhattan or dot.
        reduction: all for means over all pairs, or active for means over those above 0.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (non-zero) and `valid` (all) pairs.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Hadsell, Chopra & LeCun 2006, Dimensionality Reduction by Learning an Invariant Mapping, equation 4, which
    sums over given pairs and has no positive_margin. With distance snr and power 1 it is the contrastive loss of Yuan
    et al. 2019, Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning, whose penalty of the mean is
    left to the caller.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.contrastive(embeddings, labels)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        0.201, 6 of 12 pairs
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    checks.number("margin", margin, minimum=0.0)
    checks.number("positive_margin", positive_margin, minimum=0.0)
    checks.choice("power", power, (1, 2))
    checks.choice("distance", distance, DISTANCES)
    checks.choice("reduction", reduction, CONTRASTIVE_REDUCTIONS)
    margins, prepare = (margin, positive_margin), CONTRASTIVE_REDUCTIONS[reduction]
    return mean(_contrastive, pairs, *margins, measure=distance, per=None, prepare=prepare, power=power)


def _by_all(sides: Sides, each: Each, *margins: Array) -> tuple[Any, Any]:
    """Weights of a positive and of a negative pair, float32 [] each: one by the numbers of all such pairs."""
    return (), [ratio(1.0, n) for n in numbers_of_pairs(sides)]


def _by_active(sides: Sides, each: Each, *margins: Array) -> tuple[Any, Any]:
    """As `_by_all`, of the pairs that are above 0."""
    numbers = jnp.sum(jax.lax.stop_gradient(each(_active_pairs, sides)), axis=0)
    return (), [ratio(1.0, over_devices(n, sides.axis_name)) for n in numbers]


def _active_pairs(block: Block, margin: Array, positive_margin: Array) -> Array:
    """Numbers of the positive and of the negative pairs of each anchor that are above 0, float32 [b, 2]."""
    d = block.measured
    active = block.positive & (d > positive_margin), block.negative & (d < margin)
    return jnp.stack([row_count(pairs) for pairs in active], axis=1).astype(jnp.float32)


CONTRASTIVE_REDUCTIONS = {"all": _by_all, "active": _by_active}


def _contrastive(block: Block, margin: Array, positive_margin: Array, *, power: int) -> Terms:
    """Weighted terms of the pairs of a block; the weights are shared."""
    d = block.measured
    far, short = d - positive_margin, margin - d
    positive, negative = block.positive & (far > 0), block.negative & (short > 0)
    of_positives, of_negatives = block.shared
    value = jnp.where(positive, of_positives / power * far**power, 0.0)
    value += jnp.where(negative, of_negatives / power * short**power, 0.0)
    return Terms(
        jnp.sum(value), count(positive | negative), jnp.sum(block.positive_count + block.negative_count)
    )


def multi_similarity(
    embeddings: Array,
    labels: Array | Masks,
    *,
    alpha: float | Array = 2.0,
    beta: float | Array = 50.0,
    base: float | Array = 0.5,
    epsilon: float | Array = 0.1,
    one_sided: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Weigh each hard pair by its own cosine similarity and by those of its neighbours.

    1/alpha log(1 + sum_p e^{-alpha (s_ap - base)}) + 1/beta log(1 + sum_n e^{beta (s_an - base)}), over positives
    with s_ap - epsilon < max_n s_an and negatives with s_an + epsilon > min_p s_ap.

    Reduction: mean over all anchors; those without such pairs add 0, and so do those that have no positive or no
    negative at all, unless `one_sided`.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        alpha: above 0, sharpness for positives.
        beta: above 0, sharpness for negatives.
        base: similarity from which pairs weigh heavily.
        epsilon: how far from violating a pair may be; above 2, which no two similarities differ by, all are mined.
        one_sided: whether anchors that have negatives only, or positives only, count with all of these.
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

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.multi_similarity(embeddings, labels, epsilon=0.3)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        0.159, 4 of 12 pairs
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    checks.number("alpha", alpha, above=0.0)
    checks.number("beta", beta, above=0.0)
    checks.number("base", base)
    checks.number("epsilon", epsilon, minimum=0.0)
    checks.choice("one_sided", one_sided, (False, True))
    options = alpha, beta, base, epsilon
    return mean(
        _multi_similarity,
        pairs,
        *options,
        measure="cosine similarity",
        per="anchors",
        one_sided=bool(one_sided),
    )


def _multi_similarity(
    block: Block, alpha: Array, beta: Array, base: Array, epsilon: Array, *, one_sided: bool
) -> Terms:
    """Terms of the anchors of a block, from their mined pairs."""
    s = block.measured
    nearest = jnp.max(jnp.where(block.negative, s, -jnp.inf), axis=1, keepdims=True)
    farthest = jnp.min(jnp.where(block.positive, s, jnp.inf), axis=1, keepdims=True)
    if one_sided:
        nearest, farthest = (jnp.where(jnp.isinf(x), -x, x) for x in (nearest, farthest))
    positive = block.positive & (s - epsilon < nearest)
    negative = block.negative & (s + epsilon > farthest)
    x = jnp.where(positive, -alpha, beta) * (s - base)
    of_positives, of_negatives = log_sums_exp(x, positive, negative)
    value = jax.nn.softplus(of_positives) / alpha + jax.nn.softplus(of_negatives) / beta
    return Terms(
        jnp.sum(value), count(positive | negative), jnp.sum(block.positive_count + block.negative_count)
    )
