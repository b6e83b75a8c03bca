"""Margin loss: pairs on either side of a learned distance."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from jaxml.distances import DISTANCES
from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Terms
from jaxml.losses.kernels.comparison import compare, mean
from jaxml.losses.kernels.labels import WeightedLabels, of_classes
from jaxml.losses.kernels.negatives import choose_drawn, distance_weights, draws, one_each
from jaxml.losses.kernels.reductions import count
from jaxml.losses.kernels.types import Aux


def margin_beta(key: Array, num_classes: int, feature_size: int, *, beta: float = 1.2) -> Array:
    """Create initial boundaries of `margin`, float32 [classes]."""
    del key, feature_size
    return jnp.full((num_classes,), beta, jnp.float32)


def margin(
    embeddings: Array,
    labels: Array,
    boundaries: Array,
    *,
    margin: float | Array = 0.2,
    mining: str = "all",
    nu: float | Array = 0.0,
    nu_per: str = "anchors",
    distance: str = "euclidean",
    cutoff: float | Array = 0.5,
    upper_cutoff: float | Array = 1.4,
    key: Array | None = None,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Keep positives nearer, and negatives farther, than a learned boundary beta of the anchor.

    max(0, d_ap - beta_a + margin) + max(0, beta_a - d_an + margin) over triplets (a, p, n), plus nu times beta_a,
    averaged as `nu_per` says. Mining: `all` takes every triplet, `distance_weighted` one n drawn for each (a, p).

    Reduction: sum over terms above 0, divided by their number; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B]; with boundaries [classes], the class indices.
        boundaries: float beta: [] one for all, or [classes].
        margin: at least 0, half the width of the gap, in units of the distance.
        mining: all or distance_weighted.
        nu: weight of the boundaries.
        nu_per: anchors for the mean of beta_a over anchors, or active for its sum over triplets divided, like the
            rest, by the number of terms above 0.
        distance: euclidean, squared, cosine, snr, manhattan or dot.
        cutoff: distance below which distance_weighted treats all negatives alike.
        upper_cutoff: distance from which distance_weighted draws no negatives.
        key: random key of distance_weighted.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (above 0) and `valid` (all) terms.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Wu et al. 2017, Sampling Matters in Deep Embedding Learning, equation 5 and section 4; defaults from
    its section 5. Its authors' code averages the boundaries as nu_per active does.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.margin(embeddings, labels, boundaries=jnp.full(2, 1.0))
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} terms")
        0.306, 2 of 16 terms
    """
    pairs = compare(embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name)
    plain = labels.labels if isinstance(labels, WeightedLabels) else labels
    beta, classes = checks.boundaries("boundaries", boundaries, plain)
    checks.number("margin", margin, minimum=0.0)
    checks.choice("mining", mining, MARGIN_MINING)
    checks.number("nu", nu, minimum=0.0)
    checks.choice("nu_per", nu_per, ("anchors", "active"))
    checks.choice("distance", distance, DISTANCES)
    checks.number("cutoff", cutoff, above=0.0)
    checks.number("upper_cutoff", upper_cutoff, above=0.0)
    if mining == "all":
        key = None
    elif key is None:
        raise ValueError(f"key must be given (jax.random.key) for mining {mining}")
    options = beta, margin, nu if nu_per == "active" else 0.0, cutoff, upper_cutoff
    loss, aux = mean(
        MARGIN_MINING[mining], pairs, *options, measure=distance, per="active", own=classes, key=key
    )
    if nu_per == "active":
        return loss, aux
    average, _ = mean(_boundary, pairs, beta, measure=distance, per="anchors", own=classes)
    return loss + jnp.float32(nu) * average, aux


def _every_triplet(block: Block, beta: Array, margin: Array, nu: Array, *cutoffs: Array) -> Terms:
    """Terms of all triplets of a block, as pairs that count for as many triplets as they are part of."""
    d, beta = block.measured, of_classes(beta, block.own)[:, None]
    inside = jnp.where(block.positive, d - beta + margin, 0.0)
    outside = jnp.where(block.negative, beta - d + margin, 0.0)
    # Pair (a, p) is part of as many triplets as a has negatives, and the other way round.
    positives, negatives = block.positive_count[:, None], block.negative_count[:, None]
    terms = jnp.where(inside > 0, inside, 0.0) * negatives + jnp.where(outside > 0, outside, 0.0) * positives
    active = jnp.where(inside > 0, negatives, 0.0) + jnp.where(outside > 0, positives, 0.0)
    triplets = positives * negatives
    return Terms(jnp.sum(terms) + nu * jnp.sum(beta * triplets), jnp.sum(active), 2.0 * jnp.sum(triplets))


def _sampled_triplets(
    block: Block, beta: Array, margin: Array, nu: Array, cutoff: Array, upper_cutoff: Array
) -> Terms:
    """Terms of the positive pairs of a block, each with one negative drawn by its distance."""
    drawn = draws(distance_weights(block, cutoff, upper_cutoff), block)
    options = of_classes(beta, block.own), margin, nu
    terms = one_each(choose_drawn, _of_drawn, None, block.measured, block.candidates, options, drawn, block)
    return terms._replace(valid=2.0 * terms.valid)


def _of_drawn(
    d_ap: Array, d_an: Array, d_pn: Array | None, options: tuple[Array, Array, Array], chosen: Array
) -> Terms:
    """Terms of one triplet per anchor, of arrays [b]; options are the anchors' boundaries [b], the margin and nu []."""
    del d_pn
    beta, margin, nu = options
    inside = jnp.where(chosen, d_ap - beta + margin, 0.0)
    outside = jnp.where(chosen, beta - d_an + margin, 0.0)
    value = jnp.sum(jnp.where(inside > 0, inside, 0.0)) + jnp.sum(jnp.where(outside > 0, outside, 0.0))
    value += nu * jnp.sum(jnp.where(chosen, beta, 0.0))
    return Terms(value, count(inside > 0) + count(outside > 0), count(chosen))


MARGIN_MINING: dict[str, Callable[..., Terms]] = {
    "all": _every_triplet,
    "distance_weighted": _sampled_triplets,
}


def _boundary(block: Block, beta: Array) -> Terms:
    """Boundaries of the anchors of a block."""
    number = count(block.anchor_facts.real)
    return Terms(
        jnp.sum(jnp.where(block.anchor_facts.real, of_classes(beta, block.own), 0.0)), number, number
    )
