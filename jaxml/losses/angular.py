"""The angular loss, which bounds the angle at the negative of each triplet."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxml.distances import dot, l2_normalize
from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Terms
from jaxml.losses.kernels.comparison import compare, mean
from jaxml.losses.kernels.one_by_one import sum_over_positives
from jaxml.losses.kernels.reductions import log1p_sum_exp
from jaxml.losses.kernels.types import Aux


def angular(
    embeddings: Array,
    labels: Array,
    *,
    angle: float | Array = 0.7,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Push each negative n from the middle of anchor a and positive p until it sees them under a small angle.

    log(1 + sum_n e^{4 tan^2(angle) (x_a + x_p) . x_n - 2 (1 + tan^2(angle)) x_a . x_p}), x scaled to unit length.

    Reduction: mean over pairs (a, p) with at least one negative; 0 if there is none. Time O(B M K D) for classes of
    K images: similarities of positives and negatives are computed anew for every positive of a block.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B].
        angle: above 0 and at most pi / 2, in radians: alpha of the paper, which is half of the angle under which n may
            see a and p.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` pairs (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Wang et al. 2017, Deep Metric Learning with Angular Loss, equations 8 and 9, where a batch holds one pair
    per class. The default is near the 40 degrees of pytorch-metric-learning.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.angular(embeddings, labels)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        0.313, 4 of 4 pairs
    """
    pairs = compare(embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name)
    checks.number("angle", angle, above=0.0, maximum=np.pi / 2)
    return mean(_angular, pairs, angle, measure="cosine similarity")


def _angular(block: Block, angle: Array) -> Terms:
    """Terms of the positive pairs of a block."""
    arrays = block.measured, l2_normalize(block.candidates), jnp.square(jnp.tan(angle))
    has_negative = (block.negative_count > 0)[:, None]
    return sum_over_positives(_of_positives, arrays, replace(block, positive=block.positive & has_negative))


def _of_positives(here: Array, block: Block, s: Array, candidates: Array, square: Array) -> Array:
    """Terms of one positive of each anchor, [b], from cosine similarities [b, M] and candidates of unit length."""
    own = jnp.sum(jnp.where(here, s, 0.0), axis=1, keepdims=True)
    both = s + dot(dot(here.astype(jnp.float32), candidates.T), candidates)
    return log1p_sum_exp(4.0 * square * both - 2.0 * (1.0 + square) * own, block.negative)
