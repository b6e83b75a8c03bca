"""Inner products and Euclidean distances of all pairs of rows, by products of matrices, with their gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

_EPS = float(jnp.finfo(jnp.float32).eps)
_HIGHEST = jax.lax.Precision.HIGHEST


@jax.custom_vjp
def dot(x: Array, y: Array) -> Array:
    """Inner products x_i . y_j in full float32 precision.

    The default precision on TPU and NVIDIA GPUs rounds the factors to bfloat16 or TF32, which loses the small
    distances.

    Args:
        x: float32 [B, D].
        y: float32 [M, D].

    Returns:
        float32 [B, M].

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml.distances import dot
        >>> dot(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
        [[11.0, 2.0]]
    """
    return jax.lax.dot_general(x, y, (((1,), (1,)), ((), ())), precision=_HIGHEST)


def _dot_forward(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    return dot(x, y), (x, y)


def _dot_backward(xy: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    return _product(g, xy[1]), _transposed_product(g, xy[0])


dot.defvjp(_dot_forward, _dot_backward)


def _product(w: Array, y: Array) -> Array:
    """w y of [B, M] and [M, D]."""
    return jax.lax.dot(w, y, precision=_HIGHEST)


def _transposed_product(w: Array, x: Array) -> Array:
    """w^T x of [B, M] and [B, D]. On CPU (x^T w)^T takes a third of the time; the barrier keeps XLA from undoing it."""
    return jax.lax.optimization_barrier(
        jax.lax.dot_general(x, w, (((0,), (0,)), ((), ())), precision=_HIGHEST)
    ).T


def _gram_weights(d: Array, g: Array, rooted: bool) -> Array:
    """Gradient of the distances d along x_i - y_j, as multiples of it; d and its cotangents g are [B, M]."""
    together = d == 0
    return jnp.where(together, 0.0, g / jnp.where(together, 1.0, d) if rooted else 2.0 * g)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def gram_distance(x: Array, y: Array, rooted: bool) -> Array:
    """Distances of [B, D] and [M, D], squared unless `rooted`, [B, M], by their inner products."""
    size = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
    square = size - 2.0 * dot(x, y)
    # The sums of wide vectors round more.
    rounding = _EPS * max(4.0, 0.5 * x.shape[1] ** 0.5)
    square = jnp.where(square < rounding * size, 0.0, square)  # NaN and infinity stay
    return jnp.sqrt(square) if rooted else square


def _gram_forward(x: Array, y: Array, rooted: bool) -> tuple[Array, Any]:
    d = gram_distance(x, y, rooted)
    return d, (x, y, d)


def _gram_backward(rooted: bool, residuals: Any, g: Array) -> tuple[Array, Array]:
    x, y, d = residuals
    w = _gram_weights(d, g, rooted)
    of_x = jnp.sum(w, axis=1)[:, None] * x - _product(w, y)
    of_y = jnp.sum(w, axis=0)[:, None] * y - _transposed_product(w, x)
    return of_x, of_y


gram_distance.defvjp(_gram_forward, _gram_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def self_distance(x: Array, rooted: bool) -> Array:
    """Distances of the rows of one array [B, D], [B, B]."""
    return gram_distance(x, x, rooted)


def _self_forward(x: Array, rooted: bool) -> tuple[Array, Any]:
    d = self_distance(x, rooted)
    return d, (x, d)


def _self_backward(rooted: bool, residuals: Any, g: Array) -> tuple[Array]:
    forms = {"cpu": partial(_by_two_products, rooted), "default": partial(_by_one_product, rooted)}
    return (jax.lax.platform_dependent(*residuals, g, **forms),)


def _by_one_product(rooted: bool, x: Array, d: Array, g: Array) -> Array:
    """The gradient of rows [B, D] along their distances: x_i is in row i and in column i of d and g [B, B]."""
    w = _gram_weights(d, g + g.T, rooted)
    return jnp.sum(w, axis=1)[:, None] * x - _product(w, x)


def _by_two_products(rooted: bool, x: Array, d: Array, g: Array) -> Array:
    """The same for CPUs, on which XLA computes all that g is made of once more, in the order of its transpose."""
    w = _gram_weights(d, g, rooted)
    return (jnp.sum(w, axis=1) + jnp.sum(w, axis=0))[:, None] * x - _product(w, x) - _transposed_product(w, x)


self_distance.defvjp(_self_forward, _self_backward)
