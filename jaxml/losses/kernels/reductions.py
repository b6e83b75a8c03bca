"""Reductions over chosen entries of each row, finite in value and gradient whatever is chosen."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array

NOTHING = -1e38
"""The logarithm of an empty sum: below all others (see blocks.LARGEST), yet finite, as are differences with it."""


def log1p_sum_exp(x: Array, where: Array) -> Array:
    """log(1 + sum of e^x over the chosen entries) of each row, [b, M] -> [b], without overflow."""
    top = jax.lax.stop_gradient(jnp.max(jnp.where(where, x, 0.0), axis=1))
    # The unchosen are replaced before the exponential: its gradient would be infinity times zero.
    e = jnp.where(where, jnp.exp(jnp.where(where, x - top[:, None], 0.0)), 0.0)
    return top + jnp.log(jnp.exp(-top) + jnp.sum(e, axis=1))


def log_sum_exp(x: Array, where: Array) -> Array:
    """log(sum of e^x over the chosen entries) of each row, [b, M] -> [b]; NOTHING where none is chosen."""
    top = jax.lax.stop_gradient(jnp.max(jnp.where(where, x, NOTHING), axis=1))
    e = jnp.where(where, jnp.exp(jnp.where(where, x - top[:, None], 0.0)), 0.0)
    total = jnp.sum(e, axis=1)
    return jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1.0)), NOTHING)
