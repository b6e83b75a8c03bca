"""The instance loss, which tells every image from all others of its batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Terms, terms_of
from jaxml.losses.kernels.comparison import compare, mean
from jaxml.losses.kernels.reductions import NOTHING, log_sums_exp
from jaxml.losses.kernels.types import Aux


def instance(
    embeddings: Array,
    labels: Array,
    *,
    scale: float | Array = 64.0,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Give an image and its positives, taken together, all of a softmax over cosine similarities s to all images.

    -log(sum_{i in P} e^{scale s_ai} / sum_i e^{scale s_ai}), P the images of the anchor's label, the anchor among them.

    Reduction: mean over anchors; with references, in which the anchor is not, over those that have a positive there.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B]; a different one for every image or pair of image and text, to tell all of them apart.
        scale: above 0.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` anchors (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Zheng et al. 2020, Dual-Path Convolutional Image-Text Embeddings with Instance Loss, where every instance
    has a learned weight, as in `normalized_softmax`; here, as in pytorch-metric-learning, the images of the batch take
    their place. It agrees with that library where all labels differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> loss, aux = losses.instance(embeddings, jnp.arange(4), scale=4.0)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} anchors")
        0.449, 4 of 4 anchors
    """
    pairs = compare(embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name)
    checks.number("scale", scale, above=0.0)
    return mean(_instances, pairs, measure="cosine similarity", scale=scale)


def _instances(block: Block) -> Terms:
    """Negative logarithms of the share of each anchor's own label, of the anchors of a block."""
    s, own, ids = block.measured, block.positive, block.candidate_facts.ids
    if ids is not None:
        own |= (block.anchor_facts.ids[:, None] == ids[None, :]) & block.anchor_facts.real[:, None]
    of_own, of_others = log_sums_exp(s, own, block.negative)
    valid = of_own > NOTHING
    # Of the two logarithms' difference, little would be left of the loss where an image is far from all others.
    terms = jax.nn.softplus(jnp.where(valid, of_others - of_own, 0.0))
    return terms_of(terms, valid)
