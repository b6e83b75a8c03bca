"""Regularisers: what is added to a loss whatever the labels are, as functions like losses."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jaxml.losses.kernels.blocks import Block, Sides, Terms
from jaxml.losses.kernels.comparison import Each, compare, compare_with_classes, mean
from jaxml.losses.kernels.reductions import count
from jaxml.losses.kernels.types import Aux


def embedding_norm(embeddings: Array, labels: Array, *, axis_name: str | None = None) -> tuple[Array, Aux]:
    """Keep embeddings short: their mean length.

    sqrt(sum_d x_d^2).

    Reduction: mean over images.

    Args:
        embeddings: float [B, D], not normalised; computed in float32.
        labels: int [B]; checked, but without effect.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (longer than 0) and `valid` (all) images.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: the LpRegularizer of pytorch-metric-learning, with its default p = 2. Sohn 2016, Improved Deep Metric
    Learning with Multi-class N-pair Loss Objective, adds the squares in its place.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> loss, _ = losses.embedding_norm(jnp.array([[3.0, 4.0], [0.6, 0.8]]), jnp.array([0, 1]))
        >>> print(f"{loss:.3f}")
        3.000
    """
    return mean(_length, compare(embeddings, labels, axis_name=axis_name), measure="euclidean", per="anchors")


def _length(block: Block) -> Terms:
    """Lengths of the anchors of a block, with gradient 0 at 0."""
    square = jnp.sum(block.x**2, axis=1)
    some = square > 0
    length = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)
    return Terms(jnp.sum(length), count(some), count(block.anchor_facts.real))


def zero_mean(embeddings: Array, labels: Array, *, axis_name: str | None = None) -> tuple[Array, Aux]:
    """Keep the coordinates of every embedding balanced around 0.

    |sum_d x_d|.

    Reduction: mean over images.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B]; checked, but without effect.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (not 0) and `valid` (all) images.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: the ZeroMeanRegularizer of pytorch-metric-learning.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> loss, _ = losses.zero_mean(jnp.array([[3.0, -4.0], [0.6, 0.8]]), jnp.array([0, 1]))
        >>> print(f"{loss:.3f}")
        1.200
    """
    return mean(
        _balance, compare(embeddings, labels, axis_name=axis_name), measure="euclidean", per="anchors"
    )


def _balance(block: Block) -> Terms:
    """Sums of the coordinates of the anchors of a block, without their signs."""
    total = jnp.sum(block.x, axis=1)
    total = total * jnp.sign(total)  # whose gradient is 0 at 0
    return Terms(jnp.sum(total), count(total > 0), count(block.anchor_facts.real))


def centre_invariance(
    embeddings: Array, labels: Array, proxies: Array, *, axis_name: str | None = None
) -> tuple[Array, Aux]:
    """Keep the proxies, centres or weights of all classes equally long, so that none is favoured.

    1/4 (|p_c|^2 - 1/C sum_k |p_k|^2)^2.

    Reduction: mean over the C proxies.

    Args:
        embeddings: float [B, D]; only their shape matters.
        labels: int [B], class indices; checked, but without effect.
        proxies: float [classes, D], or [classes, centres, D], whose centres each count; computed in float32.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (not 0) and `valid` (all) proxies.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Wu et al. 2017, Deep Face Recognition with Center Invariant Loss, whose last term it is; as a mean over all
    classes, the CenterInvariantRegularizer of pytorch-metric-learning.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings, labels = jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([0, 1])
        >>> loss, _ = losses.centre_invariance(embeddings, labels, jnp.array([[0.0, 1.0], [2.0, 1.0]]))
        >>> print(f"{loss:.3f}")
        1.000
    """
    ndim = 3 if getattr(proxies, "ndim", 2) == 3 else 2
    pairs = compare_with_classes(embeddings, labels, "proxies", proxies, ndim, axis_name=axis_name)
    return mean(_deviation, pairs, measure="euclidean", per="anchors", prepare=_mean_square, turned=True)


def _mean_square(sides: Sides, each: Each) -> tuple[tuple[()], Array]:
    """The mean squared length of the proxies, which all devices have."""
    return (), jnp.mean(jnp.sum(sides.x**2, axis=1))


def _deviation(block: Block) -> Terms:
    """Terms of the proxies of a block."""
    deviation = jnp.sum(block.x**2, axis=1) - block.shared
    terms = jnp.where(block.anchor_facts.real, deviation**2 / 4.0, 0.0)
    return Terms(jnp.sum(terms), count(terms > 0), count(block.anchor_facts.real))
