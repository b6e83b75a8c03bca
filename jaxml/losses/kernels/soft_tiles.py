"""Rows and their positives against negatives, tile by tile, for the formula soft: both distances to every negative.

The distances of the positives are computed anew for each slot: on an accelerator the product of rolled rows takes less
time than rolling a tile of distances. Tiles are [rows, candidates] with all candidates. Value and slope are not those
of formulas.FORMULAS: here several triplets share one logarithm.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxml.losses.kernels import tiles
from jaxml.losses.kernels.measures import Metric
from jaxml.losses.kernels.ordering import TOGETHER, zeros
from jaxml.losses.kernels.tiles import HIGHEST, Limits, Side, Sums

Array = jax.Array


class Pairs(NamedTuple):
    """Some rows and the rows in their slots, which are the positives of each other."""

    rows: Side
    """n adjacent rows."""
    up: Array
    """bool [T, n]: see ordering.Slots."""
    forward: Limits
    """Negatives that count where the row is the anchor: limits of their distance to the row."""
    backward: Limits
    """Negatives that count where the row in the slot is the anchor: limits of their distance to that one."""


class Others(NamedTuple):
    """Where the rows in the slots are found."""

    x: Array
    """float32 [2 L + n, D]: all rows twice, then n rows more."""
    size: Array
    """float32 [2 L + n]"""
    place: Array
    """int32 []: place of the first of the n rows."""
    slot: Array
    """int32 []: number of the first of the T slots."""
    largest: Array
    """int32 []: K, the size of the largest class."""


def others_of(rows: Side, place: Array, count: int, slot: Array, largest: Array) -> Others:
    """Where the rows are found that are in the slots of `count` rows from `place` on."""
    fill = jnp.zeros((count, rows.x.shape[1]), jnp.float32)
    x = jnp.concatenate([rows.x, rows.x, fill])
    return Others(x, jnp.concatenate([rows.size, rows.size, fill[:, 0]]), place, slot, largest)


def sweep(
    pairs: Pairs,
    others: Others,
    candidates: Side,
    used: Array,
    *,
    windows: bool,
    metric: Metric,
    height: int,
) -> tuple[Sums, Array, Array]:
    """Sums of near - min(d_an, d_pn) + log(1 + e^{-|d_an - d_pn|}); their gradients of rows [n, D], candidates [M, D].

    Args:
        pairs: n rows, a multiple of `height`.
        others: the rows in their slots.
        candidates: M candidates.
        used: int32 [], slots that are not empty in all rows.
        windows: whether some limits are finite.
        metric: the distance.
        height: rows in a tile.
    """

    def turn(of_candidates: Array, i: Array) -> tuple[Array, tuple[Sums, Array]]:
        rows, forward, backward = tiles.part((pairs.rows, pairs.forward, pairs.backward), i, height)
        up = lax.dynamic_slice_in_dim(pairs.up, i * height, height, 1)
        own, place = Pairs(rows, up, forward, backward), others.place + i * height
        sums, of_rows, more = _tile(own, others._replace(place=place), candidates, used, windows, metric)
        return of_candidates + more, (sums, of_rows)

    turns = jnp.arange(pairs.rows.x.shape[0] // height, dtype=jnp.int32)
    of_candidates, (sums, of_rows) = lax.scan(turn, zeros(candidates.x.shape, candidates.x), turns)
    number = jnp.moveaxis(sums.number, 0, 1).reshape(pairs.up.shape)
    return Sums(jnp.sum(sums.value), number, number), of_rows.reshape(pairs.rows.x.shape), of_candidates


def _tile(
    pairs: Pairs, others: Others, candidates: Side, used: Array, windows: bool, metric: Metric
) -> tuple[Sums, Array, Array]:
    """`sweep` of the rows of one tile."""
    rows = pairs.rows
    s = tiles.square(rows, candidates)
    d, (count, total) = metric.value(s), s.shape
    negative = (rows.group[:, None] != candidates.group[None, :]) & (candidates.group >= 0)[None, :]

    def slot(t: Array) -> tuple[Array, ...]:
        up, forward, backward = (
            jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, t, keepdims=False)[:, None], a)
            for a in (pairs.up, pairs.forward, pairs.backward)
        )
        above = others.place + others.slot + t
        below = above - others.largest
        below = jnp.where(below < 0, below + total, below)
        x, size = (
            jnp.where(
                up if a.ndim == 2 else up[:, 0],
                lax.dynamic_slice_in_dim(a, above, count),
                lax.dynamic_slice_in_dim(a, below, count),
            )
            for a in (others.x, others.size)
        )
        of_positive = metric.value(tiles.square(Side(x, size, rows.group), candidates))
        mined = negative & tiles.within(d, forward)
        times = mined.astype(jnp.float32) + (negative & tiles.within(of_positive, backward))
        # Of the two terms under the logarithm, that of the row itself has this share.
        share = jax.nn.sigmoid(of_positive - d)
        larger = jnp.where(mined, jnp.maximum(share, 1.0 - share), 1.0)
        term = jnp.where(mined, forward.near - jnp.minimum(d, of_positive), 0.0)
        return share * times, term, larger, jnp.sum(mined, axis=1, dtype=jnp.float32)

    def some(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        number, terms, shares = carry
        together = min(TOGETHER, number.shape[0])
        parts = [slot(i * together + t) for t in range(together)]
        # One logarithm of a product of a few numbers between a half and 1.
        product = tiles.reduced(jnp.multiply, (p[2] for p in parts))
        terms = terms + jnp.sum(tiles.reduced(jnp.add, (p[1] for p in parts)) - jnp.log(product), axis=0)
        if windows:
            more = jnp.stack([p[3] for p in parts])
            number = lax.dynamic_update_slice_in_dim(number, more, i * together, 0)
        return number, terms, shares + tiles.reduced(jnp.add, (p[0] for p in parts))

    number = zeros(pairs.forward.near.shape, rows.x)
    if not windows:
        negatives = jnp.sum(negative, axis=1, dtype=jnp.float32)
        number = jnp.where(pairs.forward.high > -jnp.inf, negatives[None, :], number)
    start = (number, zeros(d.shape[1:], rows.x), zeros(d.shape, rows.x))
    number, terms, shares = lax.fori_loop(0, -(-used // TOGETHER), some, start)
    w = -shares * metric.weight(s)
    of_rows = jnp.sum(w, axis=1)[:, None] * rows.x - lax.dot(w, candidates.x, precision=HIGHEST)
    pulled = lax.dot_general(w, rows.x, (((0,), (0,)), ((), ())), precision=HIGHEST)
    of_candidates = jnp.sum(w, axis=0)[:, None] * candidates.x - pulled
    return Sums(terms, number, number), of_rows, of_candidates
