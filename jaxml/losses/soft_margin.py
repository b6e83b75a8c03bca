"""The dynamic soft margin, which weighs triplets by how hard they are among those of the batch or of earlier ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxml import arguments
from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Sides, Terms, turned
from jaxml.losses.kernels.comparison import Comparison, Each, compare, mean
from jaxml.losses.kernels.devices import gather, over_devices
from jaxml.losses.kernels.histograms import shares, sum_below
from jaxml.losses.kernels.reductions import count
from jaxml.losses.kernels.types import Aux


def dynamic_soft_margin(
    embeddings: Array,
    labels: Array,
    *,
    num_bins: int = 100,
    distribution: Array | None = None,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Weigh each triplet by the share of triplets that are easier, in place of a margin.

    F(m_ap) m_ap, with m_ap = d_ap - min(min_n d_an, min_n d_pn) of Euclidean distances d of unit vectors, and F the
    cumulative distribution of m, sum_{t_r <= m} h_r, by a histogram h of -2 to 2 at nodes t; F is a constant for the
    gradient.

    Reduction: mean over pairs (a, p) with a negative; 0 if there is none. Histogram and weights take O(num_bins B M) of
    time.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B].
        num_bins: at least 1; the batch's histogram has num_bins + 1 nodes.
        distribution: float [R], h of earlier batches, from `margin_distribution`; that of this batch if None. Then
            `num_bins` is without effect.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices. Then a is of the batch and
            p of the references, and so are their negatives of each other's side.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` pairs (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Zhang & Rusinkiewicz 2019, Learning Local Descriptors with a CDF-Based Dynamic Soft Margin, where a
    batch holds one pair per class; pass the first of each pair as embeddings and the second as references for that.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 1, 1, 0])
        >>> loss, aux = losses.dynamic_soft_margin(embeddings, labels, num_bins=8)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        0.519, 4 of 4 pairs
    """
    pairs = compare(embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name)
    if distribution is None:
        nodes = _nodes(arguments.whole("num_bins", num_bins) + 1)
    else:
        distribution = _checked(distribution)
        nodes = _nodes(len(distribution))
    return mean(_weighed, pairs, nodes, distribution, measure=MEASURE, prepare=_nearest_and_distribution)


def margin_distribution(
    distribution: Array,
    embeddings: Array,
    labels: Array,
    *,
    momentum: float | Array = 0.01,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> Array:
    """Move the distribution of `dynamic_soft_margin` towards that of a batch; no gradient passes through it.

    (1 - momentum) h + momentum h_batch; h_batch where h is 0, as in the beginning, and h where a batch has no triplet.

    Args:
        distribution: float [R], at least two; zeros in the beginning.
        embeddings: float [B, D].
        labels: int [B].
        momentum: 0 to 1, share of the batch.
        block_size: as in `dynamic_soft_margin`.
        axis_name: mapped axis the batch is divided over; the result is that of all of it, on every device.
        references: as in `dynamic_soft_margin`.
        reference_labels: as in `dynamic_soft_margin`.
        reference_mask: as in `dynamic_soft_margin`.

    Returns:
        float32 [R], the new state: a plain array, equal on all devices, saved like any other.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Zhang & Rusinkiewicz 2019, which moves the distribution before it weighs the batch by it.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 1, 1, 0])
        >>> state = losses.margin_distribution(jnp.zeros(9), embeddings, labels)
        >>> loss, _ = losses.dynamic_soft_margin(embeddings, labels, distribution=state)
        >>> print(f"{loss:.3f}")
        0.519
    """
    pairs = compare(embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name)
    distribution = _checked(distribution)
    checks.number("momentum", momentum, minimum=0.0, maximum=1.0)
    found = _of_batch(pairs, len(distribution))
    momentum = jnp.where(jnp.sum(distribution) == 0, 1.0, momentum)
    moved = (1.0 - momentum) * distribution + momentum * found
    return jnp.where(jnp.sum(found) == 0, distribution, moved)


MEASURE = "euclidean, of unit vectors"


def _nodes(number: int) -> np.ndarray:
    """Nodes of the histogram, float32 [R]."""
    return np.linspace(-2.0, 2.0, number, dtype=np.float32)


def _checked(distribution: Any) -> Array:
    """A distribution as float32 [R], without gradient."""
    form = "a float array [R] of at least two entries"
    if not isinstance(distribution, jax.Array):
        distribution = arguments.array("distribution", distribution, form)
    if (
        distribution.ndim != 1
        or len(distribution) < 2
        or not jnp.issubdtype(distribution.dtype, jnp.floating)
    ):
        raise ValueError(f"distribution must be {form}, got {distribution.dtype} {distribution.shape}")
    return jax.lax.stop_gradient(jnp.asarray(distribution, jnp.float32))


def _of_batch(pairs: Comparison, number: int) -> Array:
    """The batch's own distribution, float32 [number]: the gradient of a mean of a function that is given at nodes."""

    x, references = jax.lax.stop_gradient((pairs.embeddings, pairs.references))
    fixed = pairs._replace(embeddings=x, references=references)

    def average(heights: Array) -> Array:
        return mean(_interpolated, fixed, _nodes(number), heights, measure=MEASURE, prepare=_nearest)[0]

    found = jax.grad(average)(jnp.zeros(number, jnp.float32))
    return found if pairs.axis_name is None else jax.lax.pmean(found, pairs.axis_name)


def _nearest(sides: Sides, each: Each, *options: Any) -> tuple[Array, Array]:
    """Distance of the nearest negative of the anchors, float32 [B], and of the candidates, float32 [M]."""
    of_anchors = each(_nearest_of_block, sides)
    if sides.candidate_facts.ids is None:
        return of_anchors, each(_nearest_of_block, turned(sides))
    return of_anchors, gather(of_anchors, sides.axis_name)


def _nearest_of_block(block: Block, *options: Any) -> Array:
    """Distance of the nearest negative of each anchor, float32 [b]; infinite if there is none."""
    return jnp.min(jnp.where(block.negative, block.measured, jnp.inf), axis=1)


def _nearest_and_distribution(
    sides: Sides, each: Each, nodes: Array, distribution: Array | None
) -> tuple[Array, tuple[Array, Array]]:
    """As `_nearest`, and the distribution: that of the batch if None is given."""
    own, others = _nearest(sides, each)
    if distribution is None:
        found = each(partial(_shares, others), sides, own)
        distribution = over_devices(jnp.sum(found, axis=0), sides.axis_name)
        distribution = distribution / jnp.maximum(jnp.sum(distribution), 1.0)
    return own, (others, jax.lax.stop_gradient(distribution))


def _margins(block: Block, others: Array) -> tuple[Array, Array]:
    """m_ap where a positive pair has a negative, float32 [b, M], and where that is, bool [b, M]."""
    nearest = jnp.minimum(block.own[:, None], others[None, :])
    valid = block.positive & (nearest < jnp.inf)
    return jnp.where(valid, block.measured - jnp.where(valid, nearest, 0.0), 0.0), valid


def _shares(others: Array, block: Block, nodes: Array, distribution: Array | None) -> Array:
    """Histogram of the margins of each anchor, float32 [b, R]."""
    return shares(*_margins(block, others), nodes)


def _weighed(block: Block, nodes: Array, distribution: Array | None) -> Terms:
    """Terms of the positive pairs of a block."""
    others, heights = block.shared
    margins, valid = _margins(block, others)
    weights = jax.lax.stop_gradient(sum_below(jax.lax.stop_gradient(margins), nodes, heights))
    number = count(valid)
    return Terms(jnp.sum(weights * margins), number, number)


def _interpolated(block: Block, nodes: Array, heights: Array) -> Terms:
    """Sum over the positive pairs of a block of a function that is given at the nodes."""
    margins, valid = _margins(block, block.shared)
    number = count(valid)
    return Terms(jnp.sum(jnp.sum(shares(margins, valid, nodes), axis=0) * heights), number, number)
