"""Margin loss: pairs on either side of a learned distance."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxml.distances import DISTANCES
from jaxml.losses.kernels import blocks, checks, selected
from jaxml.losses.kernels.comparison import Block, Terms, compare, mean
from jaxml.losses.kernels.sweep import Sums

Aux = dict[str, Array]
MARGIN_MINING = ("all", "distance_weighted")


def margin_beta(key: Array, num_classes: int, feature_size: int, *, beta: float = 1.2) -> Array:
    """Initial boundaries of `margin`, float32 [classes]."""
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

    max(0, d_ap - beta_a + margin) + max(0, beta_a - d_an + margin) over triplets (a, p, n), plus nu times the mean
    of beta_a over anchors. Mining: `all` takes every triplet, `distance_weighted` one n drawn for each (a, p).

    Reduction: sum over terms above 0, divided by their number; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B]; with boundaries [classes], the class indices.
        boundaries: float beta: [] one for all, or [classes].
        margin: at least 0, half the width of the gap, in units of the distance.
        mining: all or distance_weighted.
        nu: weight of the boundaries.
        distance: euclidean, squared or cosine.
        cutoff: least distance told apart by distance_weighted.
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
    its section 5.
    """
    pairs = compare(embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name)
    beta, classes = checks.boundaries("boundaries", boundaries, labels)
    checks.number("margin", margin, minimum=0.0)
    checks.choice("mining", mining, MARGIN_MINING)
    checks.number("nu", nu, minimum=0.0)
    checks.choice("distance", distance, DISTANCES)
    checks.number("cutoff", cutoff, above=0.0)
    checks.number("upper_cutoff", upper_cutoff, above=0.0)
    if mining == "all":
        loss, aux = mean(_every_triplet, pairs, beta, margin, measure=distance, per="active", own=classes)
    elif key is None:
        raise ValueError("key must be given (jax.random.key) for mining distance_weighted")
    else:
        options = beta, margin, cutoff, upper_cutoff
        loss, aux = mean(
            _sampled_triplets, pairs, *options, measure=distance, per="active", own=classes, key=key
        )
    average, _ = mean(_boundary, pairs, beta, measure=distance, per="anchors", own=classes)
    return loss + nu * average, aux


def _every_triplet(block: Block, beta: Array, margin: Array) -> Terms:
    d, beta = block.measured, _of_classes(beta, block.own)[:, None]
    inside = jnp.where(block.positive, d - beta + margin, 0.0)
    outside = jnp.where(block.negative, beta - d + margin, 0.0)
    # Pair (a, p) is part of as many triplets as a has negatives, and the other way round.
    positives, negatives = block.positives[:, None], block.negatives[:, None]
    terms = jnp.where(inside > 0, inside, 0.0) * negatives + jnp.where(outside > 0, outside, 0.0) * positives
    active = jnp.where(inside > 0, negatives, 0.0) + jnp.where(outside > 0, positives, 0.0)
    return Terms(jnp.sum(terms), jnp.sum(active), 2.0 * jnp.sum(positives * negatives))


def _sampled_triplets(block: Block, beta: Array, margin: Array, cutoff: Array, upper_cutoff: Array) -> Terms:
    limits = {"cutoff": cutoff, "upper_cutoff": upper_cutoff}
    weights = selected.distance_weights(block.x, block.candidates, limits, block.facts)
    options = {"beta": _of_classes(beta, block.own), "margin": margin}
    sums = selected.sampled(
        _of_sampled, None, block.measured, block.candidates, options, weights, block.facts
    )
    return Terms(sums.value, sums.active, 2.0 * sums.mined)


def _of_sampled(d_ap: Array, d_an: Array, d_pn: Array | None, options: Any, chosen: Array) -> Sums:
    del d_pn
    inside = jnp.where(chosen, d_ap - options["beta"] + options["margin"], 0.0)
    outside = jnp.where(chosen, options["beta"] - d_an + options["margin"], 0.0)
    value = jnp.sum(jnp.where(inside > 0, inside, 0.0)) + jnp.sum(jnp.where(outside > 0, outside, 0.0))
    return Sums(value, blocks.count(inside > 0) + blocks.count(outside > 0), blocks.count(chosen))


def _boundary(block: Block, beta: Array) -> Terms:
    number = blocks.count(block.real)
    return Terms(jnp.sum(jnp.where(block.real, _of_classes(beta, block.own), 0.0)), number, number)


def _of_classes(beta: Array, classes: Array) -> Array:
    """The boundary of each image; NaN where traced labels are of a class that has none."""
    return beta.at[classes].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
