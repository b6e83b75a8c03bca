"""Which pairs and triplets count: masks and selected distances, never variable-length indices.

Everything here looks at one block of anchors: b rows (anchors) against M columns (candidates).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

MINING = (
    "all",
    "semi_hard",
    "original_semi_hard",
    "hardest",
    "batch_hard",
    "local",
    "local_class",
    "easy_positive",
    "distance_weighted",
)


VECTORISED = 256
"""Shortest row for which slices pay, see `row_counts`."""


class Anchors(NamedTuple):
    """Facts about a block of anchors."""

    labels: Array
    """int32 [b]"""
    ids: Array
    """int32 [b]: place in the global batch."""
    real: Array
    """bool [b]: false for rows that only fill up a block."""
    start: Array
    """int32 [b]: where the anchor's label begins in `Candidates.order`."""
    size: Array
    """int32 [b]: candidates with the anchor's label, the anchor itself included if it is one."""


class Candidates(NamedTuple):
    """Facts about what the anchors are compared with."""

    labels: Array
    """int32 [M]"""
    ids: Array | None
    """int32 [M]: place in the global batch, so that no anchor is its own positive; None for references."""
    mask: Array | None
    """bool [M]: which candidates are there, as in a memory that is not full; None if all are."""
    order: Array
    """int32 [M]: candidates sorted by label, so that the positives of an anchor lie side by side."""


class Masks(NamedTuple):
    """Which candidates are an anchor's positives, which its negatives."""

    positive: Array
    """bool [b, M]"""
    negative: Array
    """bool [b, M]"""


def facts(
    labels: Array,
    ids: Array,
    candidate_labels: Array,
    candidate_ids: Array | None,
    mask: Array | None = None,
) -> tuple[Anchors, Candidates]:
    """Find each anchor's positives by sorting the candidates' labels; no class size need be known."""
    sorted_by = candidate_labels
    if mask is None:
        order = jnp.argsort(sorted_by).astype(jnp.int32)
    else:
        # Those that are not there come last of all.
        sorted_by = jnp.where(mask, sorted_by, jnp.iinfo(jnp.int32).max)
        order = jnp.lexsort((~mask, sorted_by)).astype(jnp.int32)
    if labels.shape[0] * order.shape[0] <= 2**18:
        # Comparing all with all is one step; bisection is a loop, which pays for large batches only.
        own = labels[:, None]
        table = jnp.broadcast_to(sorted_by[None, :], (labels.shape[0], order.shape[0]))
        start, size = row_counts(table, [lambda other: other < own, lambda other: other == own]).T
    else:
        start, end = (
            jnp.searchsorted(sorted_by[order], labels, side=side).astype(jnp.int32)
            for side in ("left", "right")
        )
        size = end - start
    if mask is not None:
        size = jnp.minimum(size, number(mask) - start)
    real = jnp.ones(labels.shape, bool)
    return Anchors(labels, ids, real, start, size), Candidates(candidate_labels, candidate_ids, mask, order)


def masks(anchors: Anchors, candidates: Candidates) -> Masks:
    """Positives have the anchor's label and are not the anchor; negatives have another label."""
    real = anchors.real[:, None]
    same = anchors.labels[:, None] == candidates.labels[None, :]
    if candidates.mask is not None:
        real = real & candidates.mask[None, :]
    positive, negative = same & real, ~same & real
    if candidates.ids is not None:
        positive &= anchors.ids[:, None] != candidates.ids[None, :]
    return Masks(positive, negative)


def row_counts(x: Array, conditions: Sequence[Callable[[Array], Array]]) -> Array:
    """Number of entries of each row that meet each condition, [b, M] -> int32 [b, conditions].

    Two counts share an integer, and sixteen slices are added elementwise before the rest is reduced: CPU compilers
    vectorise that, not a reduction of rows.
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
    """Number of true entries of a mask [M], int32 []."""
    return jnp.sum(mask, dtype=jnp.int32)


def nearest(distances: Array, where: Array) -> tuple[Array, Array]:
    """Column of the least distance among the chosen, and whether there is one, [b, M] -> int32 [b], bool [b]."""
    column = jnp.argmin(jnp.where(where, distances, jnp.inf), axis=1).astype(jnp.int32)
    return column, jnp.any(where, axis=1)


def farthest(distances: Array, where: Array) -> tuple[Array, Array]:
    """Column of the greatest distance among the chosen, and whether there is one."""
    return nearest(-distances, where)


def at(distances: Array, column: Array) -> Array:
    """distances[i, column[i]], [b, M] and [b] -> [b]."""
    return jnp.take_along_axis(distances, column[:, None], axis=1)[:, 0]


def column_of_positive(k: Array, anchors: Anchors, candidates: Candidates) -> tuple[Array, Array]:
    """Column of each anchor's k-th candidate of the same label, and whether there are so many.

    The anchor itself is among them: look it up in `Masks.positive`.

    Args:
        k: int32 [] or [1, K].
        anchors: b anchors.
        candidates: M candidates.

    Returns:
        int32 and bool, [b] or [b, K].
    """
    shape = (-1,) if k.ndim == 0 else (-1, 1)
    start, size = anchors.start.reshape(shape), anchors.size.reshape(shape)
    last = candidates.order.shape[0] - 1
    return candidates.order[jnp.clip(start + k, 0, last)], k < size


def local(
    distances: Array, positive: Array, anchors: Anchors, candidates: Candidates, quantile: Array
) -> Array:
    """Positives whose distance is within the given quantile of the anchor's positive distances.

    As with numpy.quantile: of n sorted distances, those up to place floor(quantile (n - 1)), counted from 0.

    Returns:
        bool [b, M].
    """
    d = jnp.where(positive, distances, jnp.inf)
    n = jnp.sum(positive, axis=1)
    limit = last_place(quantile, n)
    rows = jnp.arange(d.shape[0])

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        k, chosen = carry
        column, exists = column_of_positive(k, anchors, candidates)
        own = d[rows, column]
        nearer = row_counts(d, [lambda d: d < own[:, None]])[:, 0]
        return k + 1, chosen.at[rows, column].max(exists & (nearer <= limit))

    _, chosen = jax.lax.while_loop(
        lambda carry: carry[0] < jnp.max(anchors.size), step, (jnp.int32(0), positive & ~positive)
    )
    return chosen & positive


def last_place(quantile: Array, n: Array) -> Array:
    """Place of the quantile among n sorted numbers, counted from 0: floor(quantile (n - 1))."""
    # A hair more, so that 0.6 x 5 is 3 and not 2.9999998.
    return jnp.floor(quantile * (n - 1).astype(jnp.float32) + 1e-4).astype(jnp.int32)


def log_weights(distances: Array, width: int, cutoff: Array, upper: Array) -> Array:
    """Logarithm of the distance-weighted sampling weights, up to a constant.

    1 / q(max(d, cutoff)) for d < upper, else 0; q(d) ~ d^{n-2} (1 - d^2/4)^{(n-3)/2} is the density of distances
    between points spread evenly over the unit sphere in n dimensions.

    Source: Wu et al. 2017, Sampling Matters in Deep Embedding Learning, equations 3-5. The upper cut-off is in
    their code, not in the paper. At least one negative counts wherever there is any: if none is below `upper`
    the caller finds no weight and skips the anchor.
    """
    d = jnp.maximum(distances, cutoff)
    weight = -(width - 2.0) * jnp.log(d) - (width - 3.0) / 2.0 * jnp.log(jnp.maximum(1.0 - d * d / 4.0, 1e-8))
    return jnp.where(distances < upper, weight, -jnp.inf)
