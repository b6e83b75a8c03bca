"""Distances of all pairs of rows that are no products of matrices, one dimension after the other in O(B M) memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


@jax.custom_vjp
def manhattan(x: Array, y: Array) -> Array:
    """Sums of absolute differences of float32 [B, D] and [M, D], [B, M]."""

    def step(total: Array, columns: tuple[Array, Array]) -> tuple[Array, None]:
        return total + jnp.abs(_differences(columns)), None

    # The first one begins the sum, which is then divided over devices as they are.
    start = jnp.abs(_differences((x[:, 0], y[:, 0])))
    return jax.lax.scan(step, start, (x.T[1:], y.T[1:]))[0]


def _differences(columns: tuple[Array, Array]) -> Array:
    of_x, of_y = columns
    return of_x[:, None] - of_y[None, :]


def _forward(x: Array, y: Array) -> tuple[Array, Any]:
    return manhattan(x, y), (x, y)


def _backward(residuals: Any, g: Array) -> tuple[Array, Array]:
    def of_columns(columns: tuple[Array, Array]) -> tuple[Array, Array]:
        slopes = g * jnp.sign(_differences(columns))
        return jnp.sum(slopes, axis=1), -jnp.sum(slopes, axis=0)

    x, y = residuals
    of_x, of_y = jax.lax.map(of_columns, (x.T, y.T))
    return of_x.T, of_y.T


manhattan.defvjp(_forward, _backward)
