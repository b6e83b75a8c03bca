"""A loss that transfers what another network's embeddings say of a batch; it needs no labels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxml.distances import largest, pairwise
from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Sides, Terms, sound
from jaxml.losses.kernels.comparison import Comparison, Each, mean
from jaxml.losses.kernels.devices import gather
from jaxml.losses.kernels.reductions import count
from jaxml.losses.kernels.types import Aux


def relaxed_contrastive(
    embeddings: Array,
    teacher_embeddings: Array,
    *,
    delta: float | Array = 1.0,
    sigma: float | Array = 1.0,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[Array, Aux]:
    """Pull every two images together by how near a teacher has them, and push them apart by how far.

    1/B sum_i sum_{j != i} w_ij r_ij^2 + (1 - w_ij) max(0, delta - r_ij)^2, with the teacher's similarity
    w_ij = e^{-|t_i - t_j|^2 / sigma} in place of labels, and relative distances r_ij = |x_i - x_j| / m_i, where m_i is
    the mean of |x_i - x_k| over all images k of the batch, i itself included.

    Reduction: sum over the other images, mean over anchors. The means m_i have their part in the gradient, since the
    loss does not depend on the scale of the embeddings and its gradient should not change it either. No gradient
    reaches the teacher.

    Args:
        embeddings: float [B, D] of the network that learns; computed in float32.
        teacher_embeddings: float [B, T] of the same images, of any width T.
        delta: above 0, relative distance to which unlike images are pushed apart; 1 is the mean distance.
        sigma: above 0, in units of the teacher's squared distance.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (non-zero) and `valid` (all) pairs.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Kim, Kim, Cho & Kwak 2021, Embedding Transfer with Label Relaxation for Improved Metric Learning, the
    relaxed contrastive loss. There the teacher's embeddings have unit length; here they are taken as they are.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> teacher = jnp.array([[0.0, 0.0, 1.0], [0.0, 0.6, 0.8], [1.0, 0.0, 0.0], [0.8, -0.6, 0.0]])
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> loss, aux = losses.relaxed_contrastive(embeddings, teacher)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        1.047, 12 of 12 pairs
    """
    checks.block_size(block_size)
    x = checks.embedded("embeddings", embeddings)
    t = checks.embedded("teacher_embeddings", teacher_embeddings)
    if len(t) != len(x):
        raise ValueError(
            f"teacher_embeddings must have a row for each of the {len(x)} embeddings, got {len(t)}"
        )
    checks.number("delta", delta, above=0.0)
    checks.number("sigma", sigma, above=0.0)
    # One label for all: the positives of an anchor are all other images.
    pairs = Comparison(x, jnp.zeros_like(x, jnp.int32, shape=len(x)), None, block_size, axis_name)
    return mean(
        _relaxed_pairs, pairs, delta, sigma, measure="euclidean", per="anchors", own=t, prepare=_teacher
    )


def _teacher(sides: Sides, each: Each, delta: Array, sigma: Array) -> tuple[Any, Any]:
    """The teacher's embeddings of the anchors and of all images, NaN where their distances are not finite."""
    own = jax.lax.stop_gradient(sides.own)
    everybody = gather(own, sides.axis_name)
    factor = sound(largest(own, everybody, "squared"))
    return own * factor, everybody * factor


def _relaxed_pairs(block: Block, delta: Array, sigma: Array) -> Terms:
    """Terms of the pairs of a block."""
    d = block.measured
    average = jnp.mean(d, axis=1, keepdims=True)
    relative = d / jnp.where(average == 0, 1.0, average)
    weight = jnp.exp(-pairwise(block.own, block.shared, "squared") / sigma)
    short = jnp.where(relative < delta, delta - relative, 0.0)
    terms = jnp.where(block.positive, weight * relative**2 + (1.0 - weight) * short**2, 0.0)
    return Terms(jnp.sum(terms), count(terms > 0), jnp.sum(block.positive_count))
