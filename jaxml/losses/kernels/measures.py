"""Measures that losses compare embeddings by: distances, their squares and similarities."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxml.distances import dot, l2_normalize, largest, pairwise

Array = jax.Array


class Metric(NamedTuple):
    """A distance d as a function of the squared Euclidean distance s of two rows, both float32 of any one shape."""

    value: Callable[[Array], Array]
    """d(s)"""
    weight: Callable[[Array], Array]
    """The derivative of d along x_i as a multiple of x_i - x_j, which is 2 d'(s); 0 at s = 0."""


class Measure(NamedTuple):
    """How near two embeddings are."""

    between: Callable[[Array, Array], Array]
    """float32 [b, D] and [M, D] -> [b, M]"""
    bound: Callable[[Array, Array], Array]
    """float32 [b, D] and [M, D] -> []: a number that no entry exceeds, not finite where an embedding is not."""
    metric: Metric | None = None
    """The same for the sorted sweep, which takes rows of unit length where the distance is cosine; None: not for it."""
    symmetric: bool = True
    """Whether x is as near to y as y is to x."""


def _distance(name: str, metric: Metric | None = None) -> Measure:
    return Measure(partial(pairwise, distance=name), partial(largest, distance=name), metric)


def _square(name: str, metric: Metric | None = None) -> Measure:
    return Measure(lambda x, y: pairwise(x, y, name) ** 2, lambda x, y: largest(x, y, name) ** 2, metric)


def _inverse_root(s: Array) -> Array:
    return jnp.where(s > 0, lax.rsqrt(jnp.where(s > 0, s, 1.0)), 0.0)


MEASURES: dict[str, Measure] = {
    "euclidean": _distance("euclidean", Metric(lambda s: s * _inverse_root(s), _inverse_root)),
    "squared": _distance("squared", Metric(lambda s: s, lambda s: jnp.where(s > 0, 2.0, 0.0))),
    # Of rows of unit length, 1 - x . y is half of |x - y|^2.
    "cosine": _distance("cosine", Metric(lambda s: s / 2, lambda s: jnp.where(s > 0, 1.0, 0.0))),
    "snr": _distance("snr")._replace(symmetric=False),
    "manhattan": _distance("manhattan"),
    "dot": _distance("dot"),
    "squared, squared": _square("squared", Metric(lambda s: s * s, lambda s: 4.0 * s)),
    "cosine, squared": _square("cosine", Metric(lambda s: s * s / 4, lambda s: s)),
    "snr, squared": _square("snr")._replace(symmetric=False),
    "manhattan, squared": _square("manhattan"),
    "squared, of unit vectors": Measure(
        lambda x, y: pairwise(l2_normalize(x), l2_normalize(y), "squared"),
        lambda x, y: 2.0 * largest(x, y, "cosine"),
    ),
    "euclidean, of unit vectors": Measure(
        lambda x, y: pairwise(l2_normalize(x), l2_normalize(y)),
        partial(largest, distance="cosine"),
    ),
    "inner product": Measure(dot, partial(largest, distance="dot")),
    "cosine similarity": Measure(
        lambda x, y: 1.0 - pairwise(x, y, "cosine"), partial(largest, distance="cosine")
    ),
}


def square_of(distance: str) -> str:
    """The measure that is the square of a distance, which dot has none of: its least values are far below 0."""
    return "squared" if distance == "euclidean" else f"{distance}, squared"


def sine(cosine: Array) -> Array:
    """Sine of an angle in 0 to pi with this cosine, in its shape; zero gradient at both ends, where it has none."""
    square = 1.0 - cosine**2
    inside = square > jnp.finfo(jnp.float32).eps
    return jnp.where(inside, jnp.sqrt(jnp.where(inside, square, 1.0)), 0.0)
