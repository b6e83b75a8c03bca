"""Rows as directions and lengths."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml import arguments

Array = jax.Array

_EPS = float(jnp.finfo(jnp.float32).eps)


def float32(name: str, value: Any) -> Array:
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
    x = float32("x", x)
    if x.ndim == 0:
        raise ValueError("x must be [..., D], got a single number")
    # Dividing by the largest entry first keeps the square from overflowing; it cancels out of the gradient.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0.0))
    zero = largest < 1e-30
    x = jnp.where(zero, 0.0, x / jnp.where(zero, 1.0, largest))
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(zero, 1.0, square))


def signal(x: Array) -> tuple[Array, Array]:
    """Directions [..., D] and lengths [...] of rows less the mean of their entries; both 0 where these are equal."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    most = partial(jnp.max, axis=-1, keepdims=True)
    largest = jax.lax.stop_gradient(most(jnp.abs(centred)))
    equal = largest <= jax.lax.stop_gradient(4.0 * _EPS * most(jnp.abs(x)))  # NaN and infinity are not
    centred = jnp.where(equal, 0.0, centred / jnp.where(equal, 1.0, largest))
    square = jnp.sum(centred * centred, axis=-1, keepdims=True)
    root = jnp.sqrt(jnp.where(equal, 1.0, square))
    return centred / root, jnp.where(equal, 0.0, largest * root)[..., 0]
