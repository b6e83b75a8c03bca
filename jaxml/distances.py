"""Distances between every row of one array and every row of another."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Array = jax.Array
Distance = Literal["euclidean", "squared", "cosine"]
DISTANCES: tuple[str, ...] = get_args(Distance)

_EPS = float(jnp.finfo(jnp.float32).eps)


def l2_normalize(x: Array) -> Array:
    """Scale the rows of x to unit length.

    y_i = x_i / |x_i|, and y_i = 0 with zero gradient where x_i = 0.

    Args:
        x: [..., D], any float type.

    Returns:
        float32 [..., D].
    """
    x = jnp.asarray(x, jnp.float32)
    # Dividing by the largest entry first keeps the square from overflowing; it cancels out of the gradient.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0.0))
    zero = largest < 1e-30
    x = jnp.where(zero, 0.0, x / jnp.where(zero, 1.0, largest))
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(zero, 1.0, square))


def dot(x: Array, y: Array) -> Array:
    """Inner products x y^T, [B, D] x [M, D] -> [B, M], at full float32 precision.

    The default on TPU and NVIDIA GPUs rounds the factors to bfloat16 or TF32, which loses the small distances.
    """
    return jax.lax.dot_general(x, y, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)


def _squared(x: Array, y: Array) -> Array:
    # Distances do not change when both sets move; near the origin the three terms below cancel least.
    centre = jax.lax.stop_gradient(jnp.mean(y, axis=0, keepdims=True))
    x, y = x - centre, y - centre
    size = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
    square = size - 2.0 * dot(x, y)
    # Below the rounding error of the difference there is only noise: call it the same point.
    return jnp.where(square > 4.0 * _EPS * size, square, 0.0)


def pairwise(x: Array, y: Array, distance: str = "euclidean") -> Array:
    """Distance of every x_i to every y_j.

    euclidean: |x_i - y_j|; squared: |x_i - y_j|^2; cosine: 1 - x_i . y_j / (|x_i| |y_j|).
    Gradients are finite everywhere, and zero where two points coincide.

    Args:
        x: [B, D], any float type.
        y: [M, D], any float type.
        distance: one of euclidean, squared, cosine.

    Returns:
        float32 [B, M].

    Raises:
        ValueError: x or y is not a matrix, their widths differ, or the distance is unknown.
    """
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be [B, D] and [M, D] with the same D, got {x.shape} and {y.shape}")
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
    if distance == "cosine":
        return 1.0 - dot(l2_normalize(x), l2_normalize(y))
    square = _squared(x, y)
    return square if distance == "squared" else root(square)


def root(square: Array) -> Array:
    """Square root with zero gradient at zero."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
