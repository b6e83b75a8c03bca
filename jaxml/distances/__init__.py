"""Distances between rows of arrays: of every row to every other, row by row, and the largest of them."""

from __future__ import annotations

import jax

from jaxml.distances.kinds import DISTANCES, Distance
from jaxml.distances.products import dot
from jaxml.distances.rows import float32, l2_normalize

Array = jax.Array

__all__ = ["DISTANCES", "dot", "l2_normalize", "largest", "pairwise", "rowwise"]


def pairwise(x: Array, y: Array, distance: str = "euclidean") -> Array:
    """Distance of every x_i to every y_j.

    euclidean: |x_i - y_j|; squared: |x_i - y_j|^2; cosine: 1 - x_i . y_j / (|x_i| |y_j|);
    snr: var(y_j - x_i) / var(x_i), variances over the entries of a row, 0 where those of x_i are all equal: noise to
    signal, which is not symmetric (Yuan et al. 2019, Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric
    Learning, equation 5); manhattan: sum_k |x_ik - y_jk|, which is no product of matrices and takes longer;
    dot: -x_i . y_j, which is less where rows are nearer, as the others are, but is no distance otherwise.
    `pairwise(x, x)`, with the very same array, computes the cheaper gradient of a symmetric matrix.
    Gradients are zero where two points coincide, but for dot. Points nearer than the rounding error of
    |x|^2 + |y|^2 - 2 x . y (about 7e-4 between unit vectors of up to 64 dimensions) count as coinciding. Distances of
    points that are not finite, and those that float32 cannot hold, are NaN or infinite, and so are their gradients.

    Args:
        x: [B, D], any float type.
        y: [M, D], any float type.
        distance: one of euclidean, squared, cosine, snr, manhattan, dot.

    Returns:
        float32 [B, M].

    Raises:
        ValueError: x or y is not a matrix, their widths differ, or the distance is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml.distances import pairwise
        >>> pairwise(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]])).round(3).tolist()
        [[5.0, 1.0]]
    """
    itself = x is y
    x, y = float32("x", x), float32("y", y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be [B, D] and [M, D] with the same D, got {x.shape} and {y.shape}")
    return _of(distance).pairwise(x, x if itself else y)


def rowwise(x: Array, y: Array, distance: str = "euclidean") -> Array:
    """Distance of x_i to y_i, by the formulas of `pairwise`.

    Args:
        x: [..., D], any float type.
        y: [..., D], of the same shape.
        distance: one of euclidean, squared, cosine, snr, manhattan, dot.

    Returns:
        float32 [...].

    Raises:
        ValueError: x and y differ in shape or are single numbers, or the distance is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml.distances import rowwise
        >>> rowwise(jnp.array([[0.0, 0.0], [1.0, 1.0]]), jnp.array([[3.0, 4.0], [1.0, 1.0]])).tolist()
        [5.0, 0.0]
    """
    x, y = float32("x", x), float32("y", y)
    if x.ndim == 0 or x.shape != y.shape:
        raise ValueError(f"x and y must be [..., D] of the same shape, got {x.shape} and {y.shape}")
    return _of(distance).rowwise(x, y)


def largest(x: Array, y: Array, distance: str) -> Array:
    """A number that the absolute value of no distance within or between the rows of x and y exceeds.

    It takes O((B + M) D) and has no gradient. It is NaN or infinite where x or y is not finite, and where float32
    cannot hold what the distance is computed from, such as the square of a Euclidean one.

    Args:
        x: float32 [B, D].
        y: float32 [M, D].
        distance: one of euclidean, squared, cosine, snr, manhattan, dot.

    Returns:
        float32 [].

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml.distances import largest
        >>> x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
        >>> print(f"{largest(x, x, 'euclidean'):.1f}")
        5.0
    """
    return _of(distance).largest(*jax.lax.stop_gradient((x, y)))


def _of(distance: str) -> Distance:
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
    return DISTANCES[distance]
