"""Smooth ranks of an anchor's positives among its candidates, without a cube of pairs and without indices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.losses.kernels.devices import zeros_like

Array = jax.Array
OfRanks = Callable[..., Array]
"""function(rank among positives [b], rank among candidates [b], *options [b, ...]) -> [b], row by row."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def sum_over_positives(
    function: OfRanks, s: Array, options: tuple[Array, ...], positive: Array, candidate: Array
) -> Array:
    """Sum over the positives p of each anchor of a function of two smooth ranks of p.

    sum_p function(r(p, positives), r(p, candidates), *options), r(p, S) = 1 + sum_{i in S, i != p} sigmoid(s_i - s_p).

    The loop goes through the different similarities of positives in falling order; each turn is one pass over [b, M]
    without a gather. Value and gradient are computed together in O(b M) memory, times K turns.

    Args:
        function: what is summed; hashable.
        s: float32 [b, M], similarities by temperature.
        options: arrays [b, ...] with gradient, which vary over devices as `s` does.
        positive: bool [b, M].
        candidate: bool [b, M], the positives among them.

    Returns:
        float32 [b]; 0 for an anchor without positives.
    """
    return _sums(function, s, options, positive, candidate)[0]


def _sums(
    function: OfRanks, s: Array, options: tuple[Array, ...], positive: Array, candidate: Array
) -> tuple[Array, Array, tuple[Array, ...]]:
    """The sums [b], and their derivatives along `s` [b, M] and `options`."""

    def below(limit: Array) -> Array:
        """The greatest similarity of a positive below the limit, [b] -> [b]; -inf if there is none."""
        return jnp.max(jnp.where(positive & (s < limit[:, None]), s, -jnp.inf), axis=1)

    def turn(carry: Any) -> Any:
        limit, total, slopes, of_options = carry
        there = limit > -jnp.inf
        difference = jnp.where(there[:, None], s - jnp.where(there, limit, 0.0)[:, None], 0.0)
        nearer = jax.nn.sigmoid(difference)
        # The positive itself adds 1/2 to both sums, in place of the 1 by which ranks begin.
        ranks = [0.5 + jnp.sum(jnp.where(mask, nearer, 0.0), axis=1) for mask in (positive, candidate)]
        value, pull = jax.vjp(function, *ranks, *options)
        by_positives, by_candidates, *by_options = pull(jnp.ones_like(value))
        # Positives of exactly one similarity are taken in one turn.
        here = positive & (s == limit[:, None])
        number = jnp.sum(here, axis=1, dtype=jnp.float32)
        weight = jnp.where(positive, by_positives[:, None], 0.0)
        weight += jnp.where(candidate, by_candidates[:, None], 0.0)
        slope = weight * nearer * (1.0 - nearer)
        slope = number[:, None] * slope - jnp.where(here, jnp.sum(slope, axis=1, keepdims=True), 0.0)
        of_options = tuple(
            sums + number.reshape(-1, *[1] * (o.ndim - 1)) * o
            for sums, o in zip(of_options, by_options, strict=True)
        )
        return below(limit), total + number * value, slopes + slope, of_options

    start = (
        below(jnp.inf + zeros_like(s[:, 0])),
        zeros_like(s[:, 0]),
        zeros_like(s),
        tuple(map(zeros_like, options)),
    )
    _, total, slopes, of_options = jax.lax.while_loop(lambda carry: jnp.any(carry[0] > -jnp.inf), turn, start)
    return total, slopes, of_options


def _forward(function: OfRanks, s: Array, options: Any, positive: Array, candidate: Array) -> Any:
    total, *slopes = _sums(function, s, options, positive, candidate)
    return total, slopes


def _backward(function: OfRanks, slopes: Any, cotangent: Array) -> Any:
    along_s, along_options = jax.tree.map(
        lambda g: g * cotangent.reshape(-1, *[1] * (g.ndim - 1)), tuple(slopes)
    )
    return along_s, along_options, None, None


sum_over_positives.defvjp(_forward, _backward)
