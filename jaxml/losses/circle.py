"""Losses that set all positive similarities of an anchor against all its negative ones, with a margin between."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Terms, terms_of
from jaxml.losses.kernels.comparison import compare, mean
from jaxml.losses.kernels.measures import sine
from jaxml.losses.kernels.reductions import NOTHING, log_sum_exp, log_sums_exp
from jaxml.losses.kernels.relations import Masks
from jaxml.losses.kernels.types import Aux


def circle(
    embeddings: Array,
    labels: Array | Masks,
    *,
    scale: float | Array = 80.0,
    margin: float | Array = 0.4,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Weigh each cosine similarity s by how far it is from its optimum, and compare all pairs of an anchor at once.

    log(1 + sum_n e^{scale w_n (s_an - margin)} sum_p e^{-scale w_p (s_ap - 1 + margin)}), with the weights
    w_n = max(0, s_an + margin) and w_p = max(0, 1 + margin - s_ap), which are constants for the gradient.

    Reduction: mean over anchors with a positive and a negative; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        scale: above 0, gamma of the paper.
        margin: at least 0, relaxation m of the paper.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` anchors (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Sun et al. 2020, Circle Loss: A Unified Perspective of Pair Similarity Optimization, equations 4 to 6;
    defaults from its section 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.circle(embeddings, labels, scale=4.0)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} anchors")
        0.830, 4 of 4 anchors
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    checks.number("scale", scale, above=0.0)
    checks.number("margin", margin, minimum=0.0)
    return mean(_circle, pairs, scale, margin, measure="cosine similarity")


def _circle(block: Block, scale: Array, margin: Array) -> Terms:
    """Terms of the anchors of a block."""
    s = block.measured
    fixed = jax.lax.stop_gradient(s)
    push = scale * jnp.maximum(fixed + margin, 0.0) * (s - margin)
    pull = -scale * jnp.maximum(1.0 + margin - fixed, 0.0) * (s - 1.0 + margin)
    x = jnp.where(block.positive, pull, push)
    positives, negatives = log_sums_exp(x, block.positive, block.negative)
    valid = (positives > NOTHING) & (negatives > NOTHING)
    terms = jax.nn.softplus(jnp.where(valid, positives + negatives, 0.0))
    return terms_of(terms, valid)


def tuplet_margin(
    embeddings: Array,
    labels: Array | Masks,
    *,
    scale: float | Array = 64.0,
    margin: float | Array = 0.1,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Pick each positive out of itself and all negatives, as if it were nearer to the anchor by an angle.

    log(1 + sum_n e^{scale (cos t_an - cos(t_ap - margin))}), t the angle between two embeddings.

    Reduction: mean over pairs (a, p) with at least one negative; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        scale: above 0.
        margin: 0 to pi, slack of the angle in radians.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` pairs (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Yu & Tao 2019, Deep Metric Learning with Tuplet Margin Loss, section 3; defaults as in
    pytorch-metric-learning, whose margin is 5.73 degrees.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.tuplet_margin(embeddings, labels, scale=4.0)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        0.183, 4 of 4 pairs
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    checks.number("scale", scale, above=0.0)
    checks.number("margin", margin, minimum=0.0, maximum=np.pi)
    return mean(_tuplet, pairs, scale, margin, measure="cosine similarity")


def _tuplet(block: Block, scale: Array, margin: Array) -> Terms:
    """Cross entropies of the positive pairs of a block, each against all negatives of its anchor."""
    s = block.measured
    rest = log_sum_exp(scale * s, block.negative)[:, None]
    nearer = s * jnp.cos(margin) + sine(s) * jnp.sin(margin)
    valid = block.positive & (rest > NOTHING)
    terms = jax.nn.softplus(jnp.where(valid, rest - scale * nearer, 0.0))
    return terms_of(terms, valid)
