"""Losses made of the distributions of similarities and distances of a batch, which histograms estimate."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxml import arguments
from jaxml.losses.kernels.blocks import Block, Sides, Terms
from jaxml.losses.kernels.comparison import Each, compare, mean, numbers_of_pairs
from jaxml.losses.kernels.devices import over_devices
from jaxml.losses.kernels.histograms import shares
from jaxml.losses.kernels.reductions import ratio
from jaxml.losses.kernels.types import Aux


def histogram(
    embeddings: Array,
    labels: Array,
    *,
    num_bins: int = 100,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Lower the probability that a random negative pair is more similar than a random positive pair.

    sum_r h-_r sum_{q <= r} h+_q, where h+_r and h-_r are the shares of all positive and of all negative pairs at node r
    of a histogram of cosine similarities, -1 to 1; a pair between two nodes counts for both, by its distance from them.

    Reduction: over all pairs at once; 0 unless there are both kinds. Histograms take O(num_bins B M) of time.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B].
        num_bins: at least 1; there are num_bins + 1 nodes.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` pairs (the same): all of them, if
        there are both kinds.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Ustinova & Lempitsky 2016, Learning Deep Embeddings with Histogram Loss, equations 1 to 5.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 1, 1, 0])
        >>> loss, aux = losses.histogram(embeddings, labels)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        0.750, 12 of 12 pairs
    """
    pairs = compare(embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name)
    # An array, whose length is the only number of bins that the compiled function knows.
    nodes = np.linspace(-1.0, 1.0, arguments.whole("num_bins", num_bins) + 1, dtype=np.float32)
    return mean(_histogram, pairs, nodes, measure="cosine similarity", per=None, prepare=_shares_below)


def _shares_below(sides: Sides, each: Each, nodes: Array) -> tuple[Any, Any]:
    """Shares of the positive pairs up to each node, float32 [R]; float32 [], the weight of a negative pair and whether
    there are pairs of both kinds."""
    positives, negatives = numbers_of_pairs(sides)
    found = over_devices(jnp.sum(each(_of_positives, sides), axis=0), sides.axis_name)
    both = (positives > 0) & (negatives > 0)
    return (), (jnp.cumsum(ratio(found, positives)), ratio(1.0, negatives), both.astype(jnp.float32))


def _of_positives(block: Block, nodes: Array) -> Array:
    """Histogram of the similarities of each anchor to its positives, float32 [b, R]."""
    return shares(block.measured, block.positive, nodes)


def _histogram(block: Block, nodes: Array) -> Terms:
    """Weighted terms of the negative pairs of a block."""
    below, weight, both = block.shared
    negatives = jnp.sum(shares(block.measured, block.negative, nodes), axis=0)
    number = both * jnp.sum(block.positive_count + block.negative_count)
    return Terms(weight * jnp.sum(negatives * below), number, number)
