"""Losses of two views of each image, without labels and without negatives: they look at dimensions, not at pairs."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxml.distances import dot, largest
from jaxml.losses.kernels import checks, sharding
from jaxml.losses.kernels.blocks import sound
from jaxml.losses.kernels.devices import number_of_devices, over_devices
from jaxml.losses.kernels.types import Aux

ROUNDING = 32 * float(jnp.finfo(jnp.float32).eps)
"""Share of the size of a dimension below which its deviations are no more than the rounding of its mean."""


def vicreg(
    embeddings: Array,
    references: Array,
    *,
    invariance: float | Array = 25.0,
    variance: float | Array = 25.0,
    covariance: float | Array = 1.0,
    epsilon: float | Array = 1e-4,
    axis_name: str | None = None,
) -> tuple[Array, Aux]:
    """Bring two views together while every dimension keeps its variance, and no two dimensions vary together.

    invariance s + variance/2 (v + v') + covariance (c + c') of views x and x', with s = 1/(B D) sum_b |x_b - x'_b|^2,
    v = 1/D sum_j max(0, 1 - sqrt(C_jj + epsilon)) and c = 1/D sum_{i != j} C_ij^2, where C is the covariance matrix of
    a view over the batch, a sum divided by B - 1.

    Reduction: as in the formula, over the batches of all devices together. There are no blocks, for no image is
    compared with another one; memory is O(B D + D^2).

    Args:
        embeddings: float [B, D], of the first view; computed in float32.
        references: float [B, D], of the second view of the same images.
        invariance: at least 0, lambda of the paper.
        variance: at least 0, mu of the paper.
        covariance: at least 0, nu of the paper.
        epsilon: above 0, in units of the variance.
        axis_name: mapped axis both views are divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` images (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Bardes, Ponce & LeCun 2022, VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
    Learning, equations 1 to 6; the half of the variance is in the authors' code and in pytorch-metric-learning.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> first = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> second = jnp.array([[0.1, 0.9], [0.7, 0.7], [0.9, 0.0], [0.8, -0.7]])
        >>> loss, _ = losses.vicreg(first, second)
        >>> print(f"{loss:.3f}")
        11.161
    """
    x, y = _views(embeddings, references)
    checks.number("invariance", invariance, minimum=0.0)
    checks.number("variance", variance, minimum=0.0)
    checks.number("covariance", covariance, minimum=0.0)
    checks.number("epsilon", epsilon, above=0.0)
    return _vicreg(x, y, (invariance, variance, covariance, epsilon), axis_name=axis_name)


def barlow_twins(
    embeddings: Array,
    references: Array,
    *,
    redundancy: float | Array = 0.005,
    axis_name: str | None = None,
) -> tuple[Array, Aux]:
    """Make every dimension agree between two views, and correlate with no other one.

    sum_i (1 - C_ii)^2 + redundancy sum_{i != j} C_ij^2, where C_ij is the correlation over the batch of dimension i of
    the first view with dimension j of the second; 0 for a dimension that does not vary.

    Reduction: sum over dimensions, as in the formula, over the batches of all devices together. There are no blocks,
    for no image is compared with another one; memory is O(B D + D^2).

    Args:
        embeddings: float [B, D], of the first view; computed in float32.
        references: float [B, D], of the second view of the same images.
        redundancy: at least 0, lambda of the paper.
        axis_name: mapped axis both views are divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` images (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Zbontar et al. 2021, Barlow Twins: Self-Supervised Learning via Redundancy Reduction, equations 1 and 2.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> first = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> second = jnp.array([[0.1, 0.9], [0.7, 0.7], [0.9, 0.0], [0.8, -0.7]])
        >>> loss, _ = losses.barlow_twins(first, second)
        >>> print(f"{loss:.3f}")
        0.005
    """
    x, y = _views(embeddings, references)
    checks.number("redundancy", redundancy, minimum=0.0)
    return _barlow_twins(x, y, redundancy, axis_name=axis_name)


def _views(embeddings: Any, references: Any) -> tuple[Array, Array]:
    """Both views as float32 [B, D]."""
    x, y = checks.embedded("embeddings", embeddings), checks.embedded("references", references)
    if x.shape != y.shape:
        raise ValueError(f"references must have the shape of embeddings, {x.shape}, got {y.shape}")
    return x, y


@partial(jax.jit, static_argnames="axis_name")
@sharding.divided(2)
def _vicreg(x: Array, y: Array, weights: tuple[Any, ...], *, axis_name: str | None) -> tuple[Array, Aux]:
    """`vicreg` of float32 [B, D], in one compiled function."""
    invariance, variance, covariance, epsilon = (jnp.asarray(w, jnp.float32) for w in weights)
    images, width = x.shape[0] * number_of_devices(axis_name), x.shape[1]
    apart = over_devices(jnp.sum(jnp.square(x - y)), axis_name) / (images * width)
    value = invariance * apart
    for view in (x, y):
        centred = _centred(view, axis_name)
        matrix = over_devices(dot(centred.T, centred.T), axis_name) / max(images - 1, 1)
        own = jnp.eye(width, dtype=bool)
        deviations = jnp.sqrt(jnp.diagonal(matrix) + epsilon)
        value += variance / 2.0 * jnp.mean(jnp.maximum(1.0 - deviations, 0.0))
        value += covariance / width * jnp.sum(jnp.square(jnp.where(own, 0.0, matrix)))
    # What overflows first is the square of a covariance.
    bound = over_devices(jnp.square(largest(x, y, "dot")), axis_name)
    bound += sum(jnp.abs(w) for w in (invariance, variance, covariance, epsilon))
    return _result(value, bound, images)


@partial(jax.jit, static_argnames="axis_name")
@sharding.divided(2)
def _barlow_twins(x: Array, y: Array, redundancy: Any, *, axis_name: str | None) -> tuple[Array, Aux]:
    """`barlow_twins` of float32 [B, D], in one compiled function."""
    redundancy = jnp.asarray(redundancy, jnp.float32)
    u, v = _standardised(x, axis_name), _standardised(y, axis_name)
    correlations = over_devices(dot(u.T, v.T), axis_name)
    own = jnp.eye(x.shape[1], dtype=bool)
    value = jnp.sum(jnp.where(own, jnp.square(1.0 - correlations), redundancy * jnp.square(correlations)))
    bound = over_devices(largest(x, y, "cosine"), axis_name) + jnp.abs(redundancy)
    return _result(value, bound, x.shape[0] * number_of_devices(axis_name))


def _result(value: Array, bound: Array, images: int) -> tuple[Array, Aux]:
    """A loss of so many images; NaN unless the bound is sound."""
    number = jnp.float32(images)
    return value * sound(bound), {"active": number, "valid": number}


def _centred(x: Array, axis_name: str | None) -> Array:
    """Embeddings less their mean over the batch, float32 [B, D]."""
    images = x.shape[0] * number_of_devices(axis_name)
    return x - over_devices(jnp.sum(x, axis=0, keepdims=True), axis_name) / images


def _standardised(x: Array, axis_name: str | None) -> Array:
    """Dimensions of mean 0 and length 1 over the batch, float32 [B, D]; 0 where they do not vary."""
    # Divided by the largest entry first, for squares of large numbers overflow.
    size = _greatest(x, axis_name)
    x = x / jnp.where(size > 0, size, 1.0)
    centred = _centred(x, axis_name)
    largest = _greatest(centred, axis_name)
    equal = largest <= ROUNDING  # NaN is not
    centred = jnp.where(equal, 0.0, centred / jnp.where(equal, 1.0, largest))
    square = over_devices(jnp.sum(jnp.square(centred), axis=0, keepdims=True), axis_name)
    return centred / jnp.sqrt(jnp.where(equal, 1.0, square))


def _greatest(x: Array, axis_name: str | None) -> Array:
    """Greatest absolute value of each dimension over the batches of all devices, float32 [1, D]; no gradient."""
    found = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axis=0, keepdims=True)
    return found if axis_name is None else jax.lax.pmax(found, axis_name)
