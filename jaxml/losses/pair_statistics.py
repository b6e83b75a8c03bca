"""Terms over all pairs of a batch that are added to another loss: intra-pair variance and consistent thresholds."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Sides, Terms
from jaxml.losses.kernels.comparison import Each, compare, mean, numbers_of_pairs
from jaxml.losses.kernels.devices import over_devices
from jaxml.losses.kernels.reductions import count, ratio, row_count
from jaxml.losses.kernels.types import Aux


def intra_pair_variance(
    embeddings: Array,
    labels: Array,
    *,
    positive_epsilon: float | Array = 0.01,
    negative_epsilon: float | Array = 0.01,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Bring the cosine similarities s of positive pairs up to their mean, and those of negative pairs down to theirs.

    mean_ap max(0, (1 - positive_epsilon) E[s_ap] - s_ap)^2 + mean_an max(0, s_an - (1 + negative_epsilon) E[s_an])^2,
    with the means E over all positive and over all negative pairs, which have their part in the gradient.

    Reduction: mean over all positive pairs plus mean over all negative pairs; 0 for a kind that is missing.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B].
        positive_epsilon: how far below their mean similarities of positive pairs may be, as a share of it.
        negative_epsilon: how far above their mean similarities of negative pairs may be, as a share of it.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (non-zero) and `valid` (all) pairs.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Yu & Tao 2019, Deep Metric Learning with Tuplet Margin Loss, where this intra-pair variance loss is added
    to `tuplet_margin`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.intra_pair_variance(embeddings, labels)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        0.090, 2 of 12 pairs
    """
    pairs = compare(embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name)
    checks.number("positive_epsilon", positive_epsilon)
    checks.number("negative_epsilon", negative_epsilon)
    options = positive_epsilon, negative_epsilon
    return mean(
        _intra_pair_variance, pairs, *options, measure="cosine similarity", per=None, prepare=_averages
    )


def _averages(sides: Sides, each: Each, *epsilons: Array) -> tuple[Any, Any]:
    """Weight and mean similarity of the positive pairs, and of the negative ones; float32 [] each."""
    sums = over_devices(jnp.sum(each(_sums, sides), axis=0), sides.axis_name)
    return (), [(ratio(1.0, n), ratio(s, n)) for s, n in zip(sums, numbers_of_pairs(sides), strict=True)]


def _sums(block: Block, *epsilons: Array) -> Array:
    """Sums of the similarities of each anchor to its positives and to its negatives, float32 [b, 2]."""
    s = block.measured
    return jnp.stack(
        [jnp.sum(jnp.where(kind, s, 0.0), axis=1) for kind in (block.positive, block.negative)], axis=1
    )


def _intra_pair_variance(block: Block, positive_epsilon: Array, negative_epsilon: Array) -> Terms:
    """Weighted terms of the pairs of a block."""
    s = block.measured
    (of_positives, average), (of_negatives, other_average) = block.shared
    below = jnp.where(block.positive, (1.0 - positive_epsilon) * average - s, 0.0)
    above = jnp.where(block.negative, s - (1.0 + negative_epsilon) * other_average, 0.0)
    value = of_positives * jnp.where(below > 0, below, 0.0) ** 2
    value += of_negatives * jnp.where(above > 0, above, 0.0) ** 2
    valid = jnp.sum(block.positive_count + block.negative_count)
    return Terms(jnp.sum(value), count((below > 0) | (above > 0)), valid)


def threshold_consistent_margin(
    embeddings: Array,
    labels: Array,
    *,
    positive_margin: float | Array = 0.9,
    negative_margin: float | Array = 0.5,
    positive_weight: float | Array = 1.0,
    negative_weight: float | Array = 1.0,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Draw the cosine similarities s of the hard pairs of all classes to the same two margins.

    positive_weight mean_ap (positive_margin - s_ap) over positive pairs with s_ap < positive_margin
    + negative_weight mean_an (s_an - negative_margin) over negative pairs with s_an > negative_margin,
    that is, sum_ap max(0, positive_margin - s_ap) by the number of its terms above 0, and likewise for negatives.

    Reduction: mean over the hard positive pairs plus mean over the hard negative pairs; 0 for a kind that is missing.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B].
        positive_margin: similarity below which a positive pair is hard.
        negative_margin: similarity above which a negative pair is hard.
        positive_weight: at least 0, of the positive pairs.
        negative_weight: at least 0, of the negative pairs.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (hard) and `valid` (all) pairs.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Zhang et al. 2024, Threshold-Consistent Margin Loss for Open-World Deep Metric Learning, where it
    is added to another loss; defaults as in pytorch-metric-learning.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.threshold_consistent_margin(embeddings, labels)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        0.200, 6 of 12 pairs
    """
    pairs = compare(embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name)
    checks.number("positive_margin", positive_margin)
    checks.number("negative_margin", negative_margin)
    checks.number("positive_weight", positive_weight, minimum=0.0)
    checks.number("negative_weight", negative_weight, minimum=0.0)
    options = positive_margin, negative_margin, positive_weight, negative_weight
    return mean(_thresholds, pairs, *options, measure="cosine similarity", per=None, prepare=_hard_pairs)


def _hard_pairs(sides: Sides, each: Each, *options: Array) -> tuple[Any, Any]:
    """One by the number of hard pairs, positive and negative, float32 [2]."""
    numbers = over_devices(jnp.sum(each(_numbers_of_hard, sides), axis=0), sides.axis_name)
    return (), ratio(1.0, numbers.astype(jnp.float32))


def _numbers_of_hard(block: Block, *options: Array) -> Array:
    """Numbers of hard positives and negatives of each anchor, int32 [b, 2]."""
    below, above = _beyond(block, *options)
    return jnp.stack([row_count(below > 0), row_count(above > 0)], axis=1)


def _beyond(
    block: Block, positive_margin: Array, negative_margin: Array, *weights: Array
) -> tuple[Array, Array]:
    """How far positives are below their margin and negatives above theirs, 0 for all other pairs; float32 [b, M]."""
    s = block.measured
    below = jnp.where(block.positive & (s < positive_margin), positive_margin - s, 0.0)
    return below, jnp.where(block.negative & (s > negative_margin), s - negative_margin, 0.0)


def _thresholds(block: Block, *options: Array) -> Terms:
    """Weighted terms of the pairs of a block."""
    below, above = _beyond(block, *options)
    *_, of_positives, of_negatives = options
    value = block.shared[0] * of_positives * jnp.sum(below) + block.shared[1] * of_negatives * jnp.sum(above)
    valid = jnp.sum(block.positive_count + block.negative_count)
    return Terms(value, count((below > 0) | (above > 0)), valid)
