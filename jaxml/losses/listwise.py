"""Losses made of smooth ranks of an anchor's candidates: average precision and recall."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxml import arguments
from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Terms, terms_of
from jaxml.losses.kernels.comparison import compare, mean
from jaxml.losses.kernels.ranks import sum_over_positives
from jaxml.losses.kernels.relations import Masks
from jaxml.losses.kernels.types import Aux


def smooth_ap(
    embeddings: Array,
    labels: Array | Masks,
    *,
    temperature: float | Array = 0.01,
    with_anchor: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Raise the average precision of the ranking of all other images by cosine similarity s, with smooth ranks.

    1 - 1/|P| sum_{p in P} r(p, P) / r(p, C), r(p, S) = 1 + sum_{i in S, i != p} sigmoid((s_ai - s_ap) / temperature),
    where P are the positives of the anchor a, and C all its candidates.

    Reduction: mean over anchors with a positive; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        temperature: above 0, of the sigmoid that takes the place of counting.
        with_anchor: count the anchor among its own positives and candidates, as the authors' code and
            pytorch-metric-learning do; not together with references.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` anchors (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Brown et al. 2020, Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval, section 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 1, 1, 0])
        >>> loss, aux = losses.smooth_ap(embeddings, labels, temperature=0.1)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} anchors")
        0.568, 4 of 4 anchors
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    checks.number("temperature", temperature, above=0.0)
    checks.choice("with_anchor", with_anchor, (False, True))
    if with_anchor and references is not None:
        raise ValueError("with_anchor must be False where references are given: the anchor is not among them")
    scale = 1.0 / temperature
    return mean(_smooth_ap, pairs, measure="cosine similarity", scale=scale, with_anchor=bool(with_anchor))


def _smooth_ap(block: Block, *, with_anchor: bool) -> Terms:
    """Terms of the anchors of a block."""
    positive, number = block.positive, block.positive_count
    valid = number > 0
    if with_anchor:
        ids = block.candidate_facts.ids
        assert ids is not None
        positive, number = positive | (block.anchor_facts.ids[:, None] == ids[None, :]), number + 1.0
    precision = sum_over_positives(_precision, block.measured, (), positive, positive | block.negative)
    terms = 1.0 - precision / jnp.maximum(number, 1.0)
    return terms_of(terms, valid)


def _precision(among_positives: Array, among_candidates: Array) -> Array:
    """Precision at a positive of these ranks."""
    return among_positives / among_candidates


def fast_ap(
    embeddings: Array,
    labels: Array | Masks,
    *,
    num_bins: int = 10,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Raise the average precision of the ranking of all other images, computed from histograms of distances.

    1 - 1/|P| sum_j h_j H_j / (H_j + G_j), where h_j is the number of positives in bin j, H_j that in bins up to j, and
    G_j the number of negatives in bins up to j. The bins divide squared distances of unit vectors, 0 to 4; an image
    between two centres counts in both, by its distance from them.

    Reduction: mean over anchors with a positive; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        num_bins: at least 1; there are num_bins + 1 centres.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` anchors (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Cakir et al. 2019, Deep Metric Learning to Rank, section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 1, 1, 0])
        >>> loss, aux = losses.fast_ap(embeddings, labels)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} anchors")
        0.583, 4 of 4 anchors
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    num_bins = arguments.whole("num_bins", num_bins)
    return mean(_fast_ap, pairs, measure="squared, of unit vectors", num_bins=num_bins)


def _fast_ap(block: Block, *, num_bins: int) -> Terms:
    """Terms of the anchors of a block."""
    # In units of the distance between two centres.
    d = block.measured * (num_bins / 4.0)
    positives = negatives = precision = jnp.zeros_like(d[:, 0])
    for centre in range(num_bins + 1):
        share = jnp.maximum(1.0 - jnp.abs(d - centre), 0.0)
        here = jnp.sum(jnp.where(block.positive, share, 0.0), axis=1)
        positives += here
        negatives += jnp.sum(jnp.where(block.negative, share, 0.0), axis=1)
        some = here > 0
        precision += jnp.where(some, here * positives / jnp.where(some, positives + negatives, 1.0), 0.0)
    valid = block.positive_count > 0
    terms = 1.0 - precision / jnp.maximum(block.positive_count, 1.0)
    return terms_of(terms, valid)


def recall_at_k(
    embeddings: Array,
    labels: Array | Masks,
    *,
    ks: tuple[int, ...] = (1, 2, 4, 8, 16),
    temperature: float | Array = 0.01,
    rank_temperature: float | Array = 1.0,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Raise the share of the positives among the k nearest images by cosine similarity s, with smooth ranks.

    1 - mean_k 1/min(k, |P|) sum_{p in P} sigmoid((k - r_p) / rank_temperature), with the rank
    r_p = sum_{i != p} sigmoid((s_ai - s_ap) / temperature), 0 for the nearest, over all candidates i of the anchor a;
    P are its positives.

    Reduction: mean over anchors with a positive; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        ks: numbers of nearest images, each at least 1.
        temperature: above 0, of the sigmoid that counts nearer images.
        rank_temperature: above 0, of the sigmoid that compares ranks with k.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` anchors (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Patel et al. 2022, Recall@k Surrogate Loss with Large Batches and Similarity Mixup, section 3; defaults
    from its section 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 1, 1, 0])
        >>> loss, aux = losses.recall_at_k(embeddings, labels, ks=(1, 2))
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} anchors")
        0.500, 4 of 4 anchors
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    ks = arguments.counts("ks", ks)
    checks.number("temperature", temperature, above=0.0)
    checks.number("rank_temperature", rank_temperature, above=0.0)
    scale = 1.0 / temperature
    return mean(_recall_at_k, pairs, rank_temperature, measure="cosine similarity", scale=scale, ks=ks)


def _recall_at_k(block: Block, rank_temperature: Array, *, ks: tuple[int, ...]) -> Terms:
    """Terms of the anchors of a block."""
    numbers = jnp.array(ks, jnp.float32)[None]
    most = jnp.minimum(numbers, jnp.maximum(block.positive_count, 1.0)[:, None])
    temperature = jnp.broadcast_to(rank_temperature, most.shape[:1])
    candidate = block.positive | block.negative
    within = partial(_within, ks=ks)
    recall = sum_over_positives(within, block.measured, (temperature, 1.0 / most), block.positive, candidate)
    valid = block.positive_count > 0
    return terms_of(1.0 - recall / len(ks), valid)


def _within(_: Array, rank: Array, temperature: Array, weights: Array, *, ks: tuple[int, ...]) -> Array:
    """Weighted sum over ks of whether a rank, which begins with 1, is at most k, smoothly."""
    beyond = rank[:, None] - 1.0 - jnp.array(ks, jnp.float32)[None]
    return jnp.sum(weights * jax.nn.sigmoid(-beyond / temperature[:, None]), axis=1)
