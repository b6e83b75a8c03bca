"""All distances: a row of DISTANCES says one of every row to every other, row by row, and the largest of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxml.distances.products import dot, gram_distance, self_distance
from jaxml.distances.rows import l2_normalize, signal
from jaxml.distances.sums import manhattan

Array = jax.Array


class Distance(NamedTuple):
    """A distance of float32 rows."""

    pairwise: Callable[[Array, Array], Array]
    """[B, D] and [M, D] -> [B, M]"""
    rowwise: Callable[[Array, Array], Array]
    """[..., D] and [..., D] -> [...]"""
    largest: Callable[[Array, Array], Array]
    """[B, D] and [M, D] -> []: no distance is farther from 0, in O((B + M) D); not finite where one of them is not."""


def _euclidean(x: Array, y: Array, rooted: bool) -> Array:
    # Distances do not change when both sets move; near the origin the products cancel least.
    centre = jax.lax.stop_gradient(jnp.mean(y, axis=0, keepdims=True))
    if x is y:
        return self_distance(x - centre, rooted)
    return gram_distance(x - centre, y - centre, rooted)


def _euclidean_of_rows(x: Array, y: Array, rooted: bool) -> Array:
    difference = x - y
    square = jnp.sum(difference * difference, axis=-1)
    if not rooted:
        return square
    # The argument of the root is made safe first: a root that is only masked has a NaN gradient at zero.
    zero = square == 0  # not `square > 0`, which would take NaN for zero
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def _largest_euclidean(x: Array, y: Array, rooted: bool) -> Array:
    # As in `_euclidean`, where what overflows is the square of a length.
    centre = jnp.mean(y, axis=0, keepdims=True)
    square = 4.0 * _largest_square(x - centre, y - centre)
    return jnp.sqrt(square) if rooted else square


def _largest_square(x: Array, y: Array) -> Array:
    return jnp.maximum(*(jnp.max(jnp.sum(jnp.square(z), axis=1)) for z in (x, y)))


def _cosine(x: Array, y: Array) -> Array:
    return 1.0 - dot(l2_normalize(x), l2_normalize(y))


def _cosine_of_rows(x: Array, y: Array) -> Array:
    return 1.0 - jnp.sum(l2_normalize(x) * l2_normalize(y), axis=-1)


def _largest_cosine(x: Array, y: Array) -> Array:
    finite = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y))
    return jnp.where(finite, jnp.float32(2.0), jnp.nan)


def _snr(x: Array, y: Array) -> Array:
    directions, lengths = signal(x)
    others, their_lengths = (directions, lengths) if x is y else signal(y)
    square = _euclidean(directions, others, rooted=False)
    return _noise_to_signal(lengths[:, None], their_lengths[None, :], square)


def _snr_of_rows(x: Array, y: Array) -> Array:
    (directions, lengths), (others, their_lengths) = signal(x), signal(y)
    return _noise_to_signal(lengths, their_lengths, _euclidean_of_rows(directions, others, rooted=False))


def _noise_to_signal(x: Array, y: Array, square: Array) -> Array:
    """The distance of rows of lengths x to rows of lengths y, from the squares of their directions' distances."""
    equal = x == 0
    # x^2, in the gradient of 1 / x, would be lost if small.
    unit = jax.lax.stop_gradient(jnp.where(equal, 1.0, x))
    ratio = (y / unit) / (jnp.where(equal, 1.0, x) / unit)
    return jnp.where(equal, 0.0, jnp.square(1.0 - ratio) + ratio * square)


def _largest_snr(x: Array, y: Array) -> Array:
    lengths = jnp.concatenate([signal(z)[1] for z in (x, y)])
    greatest = jnp.max(lengths)
    least = jnp.min(jnp.where(lengths > 0, lengths, jnp.inf))
    return jnp.where(greatest == 0, 0.0, jnp.square(1.0 + greatest / least))


def _manhattan_of_rows(x: Array, y: Array) -> Array:
    return jnp.sum(jnp.abs(x - y), axis=-1)


def _largest_manhattan(x: Array, y: Array) -> Array:
    centre = jnp.mean(y, axis=0, keepdims=True)
    return 2.0 * jnp.maximum(*(jnp.max(jnp.sum(jnp.abs(z - centre), axis=1)) for z in (x, y)))


def _of_squares(rooted: bool) -> Distance:
    return Distance(
        partial(_euclidean, rooted=rooted),
        partial(_euclidean_of_rows, rooted=rooted),
        partial(_largest_euclidean, rooted=rooted),
    )


DISTANCES: dict[str, Distance] = {
    "euclidean": _of_squares(rooted=True),
    "squared": _of_squares(rooted=False),
    "cosine": Distance(_cosine, _cosine_of_rows, _largest_cosine),
    "snr": Distance(_snr, _snr_of_rows, _largest_snr),
    "manhattan": Distance(manhattan, _manhattan_of_rows, _largest_manhattan),
    "dot": Distance(lambda x, y: -dot(x, y), lambda x, y: -jnp.sum(x * y, axis=-1), _largest_square),
}
"""All distances of `jaxml.distances.pairwise`, which documents them."""
