"""Reductions over the chosen entries of each row: counts, extremes, and sums of exponentials that stay finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import jax
import jax.numpy as jnp

Array = jax.Array

NOTHING = -1e38
"""The logarithm of an empty sum: below all others (see blocks.LARGEST), yet finite, as are differences with it."""

VECTORISED = 256
"""Shortest row that is worth cutting into slices, see `row_counts`."""


def log1p_sum_exp(x: Array, where: Array) -> Array:
    """log(1 + sum of e^x over the chosen entries) of each row, [b, M] -> [b], without overflow."""
    top = jax.lax.stop_gradient(jnp.max(jnp.where(where, x, 0.0), axis=1))
    # Entries that are not chosen are replaced before the exponential: its gradient would be infinity times zero.
    e = jnp.where(where, jnp.exp(jnp.where(where, x - top[:, None], 0.0)), 0.0)
    return top + jnp.log(jnp.exp(-top) + jnp.sum(e, axis=1))


def log_sum_exp(x: Array, where: Array) -> Array:
    """log(sum of e^x over the chosen entries) of each row, [b, M] -> [b]; NOTHING where none is chosen."""
    top = jax.lax.stop_gradient(jnp.max(jnp.where(where, x, NOTHING), axis=1))
    e = jnp.where(where, jnp.exp(jnp.where(where, x - top[:, None], 0.0)), 0.0)
    total = jnp.sum(e, axis=1)
    return jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1.0)), NOTHING)


def log_sums_exp(x: Array, positive: Array, negative: Array) -> tuple[Array, Array]:
    """`log_sum_exp` over the positives and over the negatives of each row, which are different entries, [b] each.

    One exponential serves each entry, whichever kind it is of.
    """
    kinds = positive, negative
    tops = [jax.lax.stop_gradient(jnp.max(jnp.where(kind, x, NOTHING), axis=1)) for kind in kinds]
    less = x - jnp.where(positive, tops[0][:, None], tops[1][:, None])
    chosen = positive | negative
    e = jnp.where(chosen, jnp.exp(jnp.where(chosen, less, 0.0)), 0.0)
    totals = [jnp.sum(jnp.where(kind, e, 0.0), axis=1) for kind in kinds]
    of_positives, of_negatives = (
        jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1.0)), NOTHING)
        for top, total in zip(tops, totals, strict=True)
    )
    return of_positives, of_negatives


def row_counts(x: Array, conditions: Sequence[Callable[[Array], Array]]) -> Array:
    """Number of entries of each row that meet each condition, [b, M] -> int32 [b, conditions].

    Two counts share an integer, and sixteen slices are added elementwise before the rest is reduced: CPU compilers
    vectorise elementwise additions, not a reduction of rows.
    """
    m = x.shape[1]
    slices = 16 if m >= VECTORISED else 1
    width = m // slices
    together = 2 if m < 2**16 else 1

    def counts(conditions: Sequence[Callable[[Array], Array]]) -> list[Array]:
        def packed(x: Array) -> Array:
            return reduce(jnp.add, (c(x).astype(jnp.uint32) << (16 * i) for i, c in enumerate(conditions)))

        total = reduce(jnp.add, (packed(x[:, i * width : (i + 1) * width]) for i in range(slices)))
        total = jnp.sum(total, axis=1) + jnp.sum(packed(x[:, slices * width :]), axis=1)
        return (
            [(total >> (16 * i)) & (2**16 - 1) for i in range(len(conditions))] if together > 1 else [total]
        )

    parts = [counts(conditions[i : i + together]) for i in range(0, len(conditions), together)]
    return jnp.stack([c for part in parts for c in part], axis=1).astype(jnp.int32)


def row_count(mask: Array) -> Array:
    """Number of true entries of each row, bool [b, M] -> int32 [b]."""
    return row_counts(mask, [lambda m: m])[:, 0]


def number(mask: Array) -> Array:
    """Number of true entries of a mask, bool [M] -> int32 []."""
    return jnp.sum(mask, dtype=jnp.int32)


def count(mask: Array) -> Array:
    """Number of true entries, bool [b] or [b, M] -> float32 []: a count of triplets may exceed an int32."""
    if mask.ndim == 2:
        return jnp.sum(row_count(mask).astype(jnp.float32))
    return jnp.sum(mask.astype(jnp.float32))


def ratio(value: float | Array, count: Array) -> Array:
    """A mean over what counts, of float32 [] and []; 0 where nothing counts."""
    return value / jnp.maximum(count, 1.0)


def nearest(distances: Array, where: Array) -> tuple[Array, Array]:
    """Column of the least distance among the chosen, and whether there is one, [b, M] -> int32 [b], bool [b]."""
    column = jnp.argmin(jnp.where(where, distances, jnp.inf), axis=1).astype(jnp.int32)
    return column, jnp.any(where, axis=1)


def farthest(distances: Array, where: Array) -> tuple[Array, Array]:
    """Column of the greatest distance among the chosen, and whether there is one, [b, M] -> int32 [b], bool [b]."""
    return nearest(-distances, where)


def at(distances: Array, column: Array) -> Array:
    """distances[i, column[i]], [b, M] and int32 [b] -> [b]."""
    return jnp.take_along_axis(distances, column[:, None], axis=1)[:, 0]


def last_place(quantile: Array, n: Array) -> Array:
    """Place of a quantile among n sorted numbers, from 0: floor(quantile (n - 1)), int32 in the shape of n."""
    # Slightly more, so that 0.6 x 5 is 3 and not 2.9999998.
    return jnp.floor(quantile * (n - 1).astype(jnp.float32) + 1e-4).astype(jnp.int32)
