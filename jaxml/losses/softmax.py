"""Losses that pick the positives of an anchor out of its candidates by a softmax."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxml.distances import DISTANCES
from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Terms, terms_of
from jaxml.losses.kernels.comparison import compare, mean
from jaxml.losses.kernels.reductions import count, log_sum_exp, log_sums_exp
from jaxml.losses.kernels.relations import Masks
from jaxml.losses.kernels.types import Aux


def n_pairs(
    embeddings: Array,
    labels: Array | Masks,
    *,
    reduction: str = "all",
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Pick each positive out of itself and all negatives by inner products.

    log(1 + sum_n e^{x_a . x_n - x_a . x_p}).

    Reduction: mean over pairs (a, p) with at least one negative; 0 if there is none.

    Args:
        embeddings: float [B, D], not normalised; computed in float32.
        labels: int [B], or Masks in their place.
        reduction: all, or anchors for the mean over anchors of the mean over their pairs.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` pairs (the same), or of anchors with
        such pairs where the mean is over anchors.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Sohn 2016, Improved Deep Metric Learning with Multi-class N-pair Loss Objective, equation 6, where a
    batch holds one pair per class and only its second image serves as negative: pass the first images as
    embeddings and the second as references for exactly that. Its norm penalty is left to the caller.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.n_pairs(embeddings, labels)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        0.674, 4 of 4 pairs
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    checks.choice("reduction", reduction, PICK_REDUCTIONS)
    return mean(_pick, pairs, measure="inner product", reduction=reduction)


def nt_xent(
    embeddings: Array,
    labels: Array | Masks,
    *,
    temperature: float | Array = 0.1,
    distance: str = "cosine",
    reduction: str = "all",
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Pick each positive out of itself and all negatives by cosine similarity s, or by s = -d of another distance d.

    -log(e^{s_ap / temperature} / (e^{s_ap / temperature} + sum_n e^{s_an / temperature})).

    Reduction: mean over pairs (a, p) with at least one negative; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        temperature: above 0.
        distance: cosine, euclidean, squared, snr, manhattan or dot.
        reduction: all, or anchors for the mean over anchors of the mean over their pairs.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` pairs (the same), or of anchors with
        such pairs where the mean is over anchors.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Chen et al. 2020, A Simple Framework for Contrastive Learning (SimCLR), equation 1, where an anchor has
    one positive; with several, the others are left out of the sum, as in pytorch-metric-learning.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.nt_xent(embeddings, labels, temperature=0.5)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        0.430, 4 of 4 pairs
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    checks.number("temperature", temperature, above=0.0)
    checks.choice("distance", distance, DISTANCES)
    checks.choice("reduction", reduction, PICK_REDUCTIONS)
    return mean(_pick, pairs, **_similarity(distance, temperature), reduction=reduction)


def _similarity(distance: str, temperature: float | Array) -> dict[str, Any]:
    """The arguments of `mean` by which `block.measured` is s / temperature."""
    if distance == "cosine":
        return {"measure": "cosine similarity", "scale": 1.0 / temperature}
    return {"measure": distance, "scale": -1.0 / temperature}


PICK_REDUCTIONS = ("all", "anchors")


def _pick(block: Block, *, reduction: str) -> Terms:
    """Cross entropies of the positive pairs of a block, each against all negatives of its anchor."""
    s = block.measured
    has_negative = block.negative_count > 0
    valid = block.positive & has_negative[:, None]
    rest = log_sum_exp(s, block.negative)[:, None]
    terms = jnp.where(valid, jax.nn.softplus(jnp.where(valid, rest - s, 0.0)), 0.0)
    if reduction == "anchors":
        terms = terms / jnp.maximum(block.positive_count, 1.0)[:, None]
        number = count(has_negative & (block.positive_count > 0))
    else:
        number = jnp.sum(jnp.where(has_negative, block.positive_count, 0.0))
    return Terms(jnp.sum(terms), number, number)


def supervised_contrastive(
    embeddings: Array,
    labels: Array | Masks,
    *,
    temperature: float | Array = 0.1,
    distance: str = "cosine",
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Give an anchor's positives equal shares of a softmax over all other images, by cosine similarity s.

    With another distance d, s is -d.

    -1/|P| sum_p log(e^{s_ap / temperature} / sum_{i != a} e^{s_ai / temperature}), P the positives of a.

    Reduction: mean over anchors with a positive; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        temperature: above 0.
        distance: cosine, euclidean, squared, snr, manhattan or dot.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` anchors (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Khosla et al. 2020, Supervised Contrastive Learning, equation 2 (L_out).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.supervised_contrastive(embeddings, labels, temperature=0.5)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} anchors")
        0.430, 4 of 4 anchors
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    checks.number("temperature", temperature, above=0.0)
    checks.choice("distance", distance, DISTANCES)
    return mean(_share_equally, pairs, **_similarity(distance, temperature))


def _share_equally(block: Block) -> Terms:
    """Cross entropies of the anchors of a block, with equal shares for their positives."""
    s = block.measured
    average = jnp.sum(jnp.where(block.positive, s, 0.0), axis=1) / jnp.maximum(block.positive_count, 1.0)
    valid = block.positive_count > 0
    terms = log_sum_exp(s, block.positive | block.negative) - average
    return terms_of(terms, valid)


def nca(
    embeddings: Array,
    labels: Array | Masks,
    *,
    scale: float | Array = 1.0,
    distance: str = "squared",
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Give an anchor's positives, taken together, all of a softmax over distances to the other images.

    -log(sum_p e^{-scale d_ap} / sum_{i != a} e^{-scale d_ai}).

    Reduction: mean over anchors with a positive; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        scale: above 0; one by the temperature of the soft nearest neighbour loss.
        distance: euclidean, squared, cosine, snr, manhattan or dot.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` anchors (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Goldberger et al. 2004, Neighbourhood Components Analysis, equations 1 and 2, and Frosst et al. 2019,
    Analyzing and Improving Representations with the Soft Nearest Neighbor Loss, equation 1, where the loss is this
    logarithm.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.nca(embeddings, labels)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} anchors")
        0.430, 4 of 4 anchors
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    checks.number("scale", scale, above=0.0)
    checks.choice("distance", distance, DISTANCES)
    return mean(_share_together, pairs, measure=distance, scale=scale)


def _share_together(block: Block) -> Terms:
    """Negative logarithms of the positives' share, of the anchors of a block."""
    valid = block.positive_count > 0
    of_positives, of_negatives = log_sums_exp(-block.measured, block.positive, block.negative)
    terms = jax.nn.softplus(jnp.where(valid, of_negatives - of_positives, 0.0))
    return terms_of(terms, valid)
