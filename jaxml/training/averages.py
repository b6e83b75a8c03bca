"""Exponential moving averages of the network, by which it embeds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def begin(params: Any, batch_stats: Any) -> dict[str, Any]:
    """The averages {"params", "batch_stats"} before the first step: copies, for a step reuses the memory of both."""
    return jax.tree.map(jnp.array, {"params": params, "batch_stats": batch_stats})


def advance(
    decay: float, step: Array, averages: dict[str, Any], params: Any, batch_stats: Any
) -> dict[str, Any]:
    """The averages after a step, the first of which is 1: a_t = a_(t-1) + (1 - d_t) (x_t - a_(t-1)).

    d_t = min(decay, (1 + t) / (10 + t)), so that the initial x_0 is soon forgotten, as in TensorFlow's
    ExponentialMovingAverage. Statistics of BatchNorm are averaged as well, for they belong to the parameters of their
    step. What does not change is its own average to the last bit.
    """
    weight = 1 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    current = {"params": params, "batch_stats": batch_stats}
    return jax.tree.map(lambda average, x: average + weight * (x - average), averages, current)
