"""Distances between rows of arrays: of every row to every other, row by row, and the largest of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml import arguments

Array = jax.Array
DISTANCES = ("euclidean", "squared", "cosine", "snr")

_EPS = float(jnp.finfo(jnp.float32).eps)
_HIGHEST = jax.lax.Precision.HIGHEST


def _float32(name: str, value: Any) -> Array:
    """An argument of any shape, of numbers, as float32."""
    if not isinstance(value, jax.Array):
        value = arguments.array(name, value, "an array of numbers")
    return jnp.asarray(value, jnp.float32)


def l2_normalize(x: Array) -> Array:
    """Scale the rows of x to unit length.

    y_i = x_i / |x_i|, and y_i = 0 with zero gradient where x_i = 0.

    Args:
        x: [..., D], any float type.

    Returns:
        float32 [..., D].

    Raises:
        ValueError: x is a single number, or no array of numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml.distances import l2_normalize
        >>> print(l2_normalize(jnp.array([3.0, 4.0])).round(3))
        [0.6 0.8]
    """
    x = _float32("x", x)
    if x.ndim == 0:
        raise ValueError("x must be [..., D], got a single number")
    # Dividing by the largest entry first keeps the square from overflowing; it cancels out of the gradient.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0.0))
    zero = largest < 1e-30
    x = jnp.where(zero, 0.0, x / jnp.where(zero, 1.0, largest))
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(zero, 1.0, square))


def pairwise(x: Array, y: Array, distance: str = "euclidean") -> Array:
    """Distance of every x_i to every y_j.

    euclidean: |x_i - y_j|; squared: |x_i - y_j|^2; cosine: 1 - x_i . y_j / (|x_i| |y_j|);
    snr: var(y_j - x_i) / var(x_i), variances over the entries of a row, 0 where those of x_i are all equal: noise to
    signal, which is not symmetric (Yuan et al. 2019, Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric
    Learning, equation 5).
    `pairwise(x, x)`, with the very same array, computes the cheaper gradient of a symmetric matrix.
    Gradients are zero where two points coincide. Points nearer than the rounding error of |x|^2 + |y|^2 - 2 x . y
    (about 7e-4 between unit vectors of up to 64 dimensions) count as coinciding. Distances of points that are not
    finite, and those that float32 cannot hold, are NaN or infinite, and so are their gradients.

    Args:
        x: [B, D], any float type.
        y: [M, D], any float type.
        distance: one of euclidean, squared, cosine, snr.

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
    x, y = _float32("x", x), _float32("y", y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be [B, D] and [M, D] with the same D, got {x.shape} and {y.shape}")
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
    if distance == "cosine":
        return 1.0 - dot(l2_normalize(x), l2_normalize(y))
    if distance == "snr":
        directions, lengths = _signal(x)
        others, their_lengths = (directions, lengths) if itself else _signal(y)
        square = pairwise(directions, others, "squared")
        return _noise_to_signal(lengths[:, None], their_lengths[None, :], square)
    # Distances do not change when both sets move; near the origin the Gram matrix cancels least.
    centre = jax.lax.stop_gradient(jnp.mean(y, axis=0, keepdims=True))
    if itself:
        return _self_distance(x - centre, distance == "euclidean")
    return _gram_distance(x - centre, y - centre, distance == "euclidean")


def rowwise(x: Array, y: Array, distance: str = "euclidean") -> Array:
    """Distance of x_i to y_i, by the formulas of `pairwise`.

    Args:
        x: [..., D], any float type.
        y: [..., D], of the same shape.
        distance: one of euclidean, squared, cosine, snr.

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
    x, y = _float32("x", x), _float32("y", y)
    if x.ndim == 0 or x.shape != y.shape:
        raise ValueError(f"x and y must be [..., D] of the same shape, got {x.shape} and {y.shape}")
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
    if distance == "cosine":
        return 1.0 - jnp.sum(l2_normalize(x) * l2_normalize(y), axis=-1)
    if distance == "snr":
        (directions, lengths), (others, their_lengths) = _signal(x), _signal(y)
        return _noise_to_signal(lengths, their_lengths, rowwise(directions, others, "squared"))
    difference = x - y
    square = jnp.sum(difference * difference, axis=-1)
    if distance == "squared":
        return square
    # The argument of the root is made safe first: a root that is only masked has a NaN gradient at zero.
    zero = square == 0  # not `square > 0`, which would take NaN for zero
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def _signal(x: Array) -> tuple[Array, Array]:
    """Directions [..., D] and lengths [...] of rows less the mean of their entries; both 0 where these are equal."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    most = partial(jnp.max, axis=-1, keepdims=True)
    largest = jax.lax.stop_gradient(most(jnp.abs(centred)))
    equal = largest <= jax.lax.stop_gradient(4.0 * _EPS * most(jnp.abs(x)))  # NaN and infinity are not
    centred = jnp.where(equal, 0.0, centred / jnp.where(equal, 1.0, largest))
    square = jnp.sum(centred * centred, axis=-1, keepdims=True)
    root = jnp.sqrt(jnp.where(equal, 1.0, square))
    return centred / root, jnp.where(equal, 0.0, largest * root)[..., 0]


def _noise_to_signal(x: Array, y: Array, square: Array) -> Array:
    """Distance snr of rows of lengths x to rows of lengths y, from the squares of their directions' distances."""
    equal = x == 0
    unit = jax.lax.stop_gradient(
        jnp.where(equal, 1.0, x)
    )  # x^2, in the gradient of 1 / x, would be lost if small
    ratio = (y / unit) / (jnp.where(equal, 1.0, x) / unit)
    return jnp.where(equal, 0.0, jnp.square(1.0 - ratio) + ratio * square)


def largest(x: Array, y: Array, distance: str) -> Array:
    """A number that no distance within or between the rows of x and y exceeds; in O((B + M) D), without gradient.

    It is NaN or infinite where x or y is not finite, and where float32 cannot hold the square of a distance.

    Args:
        x: float32 [B, D].
        y: float32 [M, D].
        distance: one of euclidean, squared, cosine, snr, or dot for inner products.

    Returns:
        float32 [].

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml.distances import largest
        >>> x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
        >>> print(f"{largest(x, x, 'euclidean'):.1f}")
        5.0
    """
    x, y = jax.lax.stop_gradient((x, y))
    if distance == "cosine":
        finite = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y))
        return jnp.where(finite, jnp.float32(2.0), jnp.nan)
    if distance == "snr":
        lengths = jnp.concatenate([_signal(z)[1] for z in (x, y)])
        greatest = jnp.max(lengths)
        least = jnp.min(jnp.where(lengths > 0, lengths, jnp.inf))
        return jnp.where(greatest == 0, 0.0, jnp.square(1.0 + greatest / least))
    # As in `pairwise`, where what overflows is the square of a length.
    centre = 0.0 if distance == "dot" else jnp.mean(y, axis=0, keepdims=True)
    square = jnp.maximum(*(jnp.max(jnp.sum(jnp.square(z - centre), axis=1)) for z in (x, y)))
    if distance == "dot":
        return square
    return jnp.sqrt(4.0 * square) if distance == "euclidean" else 4.0 * square


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
def _gram_distance(x: Array, y: Array, rooted: bool) -> Array:
    """Distances of [B, D] and [M, D], squared unless `rooted`, [B, M], by their inner products."""
    size = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
    square = size - 2.0 * dot(x, y)
    # The sums of wide vectors round more.
    rounding = _EPS * max(4.0, 0.5 * x.shape[1] ** 0.5)
    square = jnp.where(square < rounding * size, 0.0, square)  # NaN and infinity stay
    return jnp.sqrt(square) if rooted else square


def _gram_forward(x: Array, y: Array, rooted: bool) -> tuple[Array, Any]:
    d = _gram_distance(x, y, rooted)
    return d, (x, y, d)


def _gram_backward(rooted: bool, residuals: Any, g: Array) -> tuple[Array, Array]:
    x, y, d = residuals
    w = _gram_weights(d, g, rooted)
    of_x = jnp.sum(w, axis=1)[:, None] * x - _product(w, y)
    of_y = jnp.sum(w, axis=0)[:, None] * y - _transposed_product(w, x)
    return of_x, of_y


_gram_distance.defvjp(_gram_forward, _gram_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _self_distance(x: Array, rooted: bool) -> Array:
    """Distances of the rows of one array [B, D], [B, B]."""
    return _gram_distance(x, x, rooted)


def _self_forward(x: Array, rooted: bool) -> tuple[Array, Any]:
    d = _self_distance(x, rooted)
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


_self_distance.defvjp(_self_forward, _self_backward)
