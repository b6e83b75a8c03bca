"""Rows sorted by label: the positives of all anchors are then the rows themselves, rolled.

In sorted order the rows of a class lie side by side. Let K be the size of the largest class. Slot j (1 <= j < K) of
row i holds the row i + j of its class or, where that lies past the end of the class, the row i - (K - j). Of a class of
n rows exactly n - 1 slots of each row are filled, and they hold the n - 1 others, whatever the sizes of the classes. So
the positives of all anchors at once are dense arrays [slots, rows], reached without an index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxml.losses.kernels.rolled import Rolled, neighbours

Array = jax.Array

CHUNK = 16
"""Slots that one sweep over the negatives compares: more would overflow registers, fewer repeat matrix products."""
TOGETHER = 4
"""Slots that one turn of a loop computes: enough to keep the arithmetic units busy, few enough to compile quickly."""


class Rows(NamedTuple):
    """L rows sorted by label: all of them or, in a ring of devices, this device's part."""

    x: Array
    """float32 [D, L]: rows lie along the last axis, which a TPU fills up to a multiple of 128."""
    size: Array
    """float32 [L]: |x|^2; 1 for every row where the distance is cosine."""
    blank: Array | None
    """float32 [L]: 1 for zero rows where the distance is cosine; None elsewhere."""
    group: Array
    """int32 [L]: number of the row's class among those present, from 0; does not decrease."""
    start: Array
    """int32 [L]: first row of the class."""
    end: Array
    """int32 [L]: one past its last row."""
    largest: Array
    """int32 []: K, the size of the largest class."""
    anchor: Array | None
    """bool [L]: which rows are anchors; all, if None."""
    candidate: Array | None
    """bool [L]: which rows may be positives and negatives; all, if None."""
    place: Array
    """int32 [L]: places of the rows among all sorted rows."""
    ring: str | None
    """Mapped axis of the devices that hold a part each; None if these are all rows. In a ring no class may have more
    than L + 1 rows."""


class Slots(NamedTuple):
    """T slots of L rows."""

    square: Array
    """float32 [T, L]: squared distance between the row and the row in the slot."""
    scale: Array
    """float32 [T, L]: the sum of their squared lengths, to which rounding errors of `square` are proportional."""
    up: Array
    """bool [T, L]: the slot holds the row i + j."""
    down: Array
    """bool [T, L]: the slot holds the row i - (K - j)."""

    @property
    def filled(self) -> Array:
        """bool [T, L]"""
        return self.up | self.down


def order(labels: Array) -> tuple[Array, Array, Array, Array]:
    """Sort labels, int32 [L].

    Returns:
        The rows in their new order, and `group`, `start` and `end` of `Rows`, each int32 [L].
    """
    place = jnp.arange(labels.shape[0], dtype=jnp.int32)
    labels, rows = lax.sort((labels, place), num_keys=1)
    changes = labels[1:] != labels[:-1]
    edge = jnp.ones(1, bool)
    first, last = jnp.concatenate([edge, changes]), jnp.concatenate([changes, edge])
    group = jnp.cumsum(first.astype(jnp.int32)) - 1
    start = lax.cummax(jnp.where(first, place, 0))
    end = lax.cummin(jnp.where(last, place + 1, labels.shape[0]), reverse=True)
    return rows, group, start, end


def over_classes(counts: Array, rows: Rows) -> Array:
    """Sums of counts, int32 [L] and none negative, over the rows of each class, at each of its rows: int32 [L]."""
    total = counts.shape[0]
    start, end, place = rows.start, rows.end, rows.place
    if rows.ring is not None:
        counts, start, end, place = (
            jnp.concatenate(neighbours(a, rows.ring)) for a in (counts, start, end, place)
        )
    through = jnp.cumsum(counts)
    # Running sums do not decrease, so that running extremes carry the first and the last one through a class.
    before = lax.cummax(jnp.where(place == start, through - counts, 0))
    last = jnp.where(place == end - 1, through, jnp.iinfo(jnp.int32).max)
    sums = lax.cummin(last, reverse=True) - before
    return sums if rows.ring is None else sums[total:-total]


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """float32 zeros that vary over devices as `like` does, as the start of a loop that adds to them must."""
    zero = jnp.float32(0)  # whatever the type of a plain 0.0 is, under jax_enable_x64
    return jnp.broadcast_to(jnp.where(like.reshape(-1)[0] > 0, zero, zero), shape)


def slots(rows: Rows, first: Array, count: int) -> Slots:
    """The slots from `first`, int32 [], to `first + count - 1` of all rows."""
    K, place, rolled = rows.largest, rows.place, _RolledRows(rows)

    def slot(t: Array) -> tuple[Array, ...]:
        j = first + t
        exists = j < K
        up = (place + j < rows.end) & exists
        down = (place - (K - j) >= rows.start) & exists & ~up

        def held(name: str) -> Array:
            above, below = rolled(name, j), rolled(name, j - K)
            return jnp.where(up if above.ndim == 1 else up[None, :], above, below)

        difference = rows.x - held("x")
        square = jnp.sum(difference * difference, axis=0)
        if rows.blank is not None:
            square = square + rows.blank + held("blank")
        if rows.candidate is not None:
            up, down = up & rolled("candidate", j), down & rolled("candidate", j - K)
        if rows.anchor is not None:
            up, down = up & rows.anchor, down & rows.anchor
        return square, rows.size + held("size"), up, down

    return Slots(*_by_slots(slot, count, jnp.minimum(K - first, count)))


def of_held(rows: Rows, first: Array, held: Slots, a: Array) -> Array:
    """The entries of an array [L] for the row in each slot, [T, L]; arbitrary ones where the slot is empty."""
    rolled, count = Rolled(a, rows.ring), held.up.shape[0]
    return jnp.stack(
        [jnp.where(held.up[t], rolled(first + t), rolled(first + t - rows.largest)) for t in range(count)]
    )


def pull(rows: Rows, first: Array, held: Slots, weights: Array) -> Array:
    """Sum over slots of w (x_i - x_p) for row i, and of w (x_p - x_i) for the row p in the slot.

    Args:
        rows: L rows.
        first: int32 [], the first slot.
        held: T slots.
        weights: w, float32 [T, L].

    Returns:
        float32 [D, L].
    """
    K, rolled = rows.largest, _RolledRows(rows)
    count = weights.shape[0]
    together = min(TOGETHER, count)

    def slot(t: Array) -> Array:
        j = first + t

        def of_slot(a: Array) -> Array:
            return lax.dynamic_index_in_dim(a, t, keepdims=False)

        w = of_slot(weights)
        up, down = jnp.where(of_slot(held.up), w, 0.0), jnp.where(of_slot(held.down), w, 0.0)
        # The weights that a row has as the positive of others.
        from_below, from_above = Rolled(up, rows.ring)(-j), Rolled(down, rows.ring)(K - j)
        total = (up + down + from_below + from_above)[None, :] * rows.x
        total -= up[None, :] * rolled("x", j) + down[None, :] * rolled("x", j - K)
        return total - from_below[None, :] * rolled("x", -j) - from_above[None, :] * rolled("x", K - j)

    def some(i: Array) -> Array:
        return sum((slot(i * together + t) for t in range(together)), start=jnp.float32(0.0))

    if count == together:
        return some(jnp.int32(0))
    turns = -(-jnp.minimum(K - first, count) // together)
    return lax.fori_loop(0, turns, lambda i, total: total + some(i), zeros(rows.x.shape, rows.x))


class Own:
    """This device's anchors among all rows: B increasing places, adjacent ones where all rows are anchors somewhere."""

    def __init__(self, places: Array, rows: Rows):
        self._places, self._total = places, rows.size.shape[0]
        self._adjacent = rows.anchor is None
        self.all = places.shape[0] == self._total
        self._moves = [] if self._adjacent else _moves(places, self._total)

    def take(self, a: Array) -> Array:
        """[..., L] -> [..., B], the entries of the anchors."""
        if self.all:
            return a
        if self._adjacent:
            return lax.dynamic_slice_in_dim(a, self._places[0], self._places.shape[0], a.ndim - 1)
        for by, moved in self._moves:
            a = jnp.where(moved, jnp.roll(a, -by, axis=-1), a)
        return a[..., : self._places.shape[0]]

    def put(self, a: Array) -> Array:
        """The transpose of `take`: [..., B] -> [..., L]."""
        if self.all:
            return a
        if self._adjacent:
            whole = zeros((*a.shape[:-1], self._total), a)
            return lax.dynamic_update_slice_in_dim(whole, a, self._places[0], a.ndim - 1)
        a = jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, self._total - a.shape[-1])])
        for by, moved in reversed(self._moves):
            a = jnp.where(moved, 0.0, a) + jnp.roll(jnp.where(moved, a, 0.0), by, axis=-1)
        return a

    def put_rows(self, a: Array) -> Array:
        """The transpose of `take` for whole rows, [D, B] -> [D, L]."""
        if self.all or self._adjacent:
            return self.put(a)
        return zeros((a.shape[0], self._total), a).at[:, self._places].set(a, unique_indices=True)


def _moves(own: Array, total: int) -> list[tuple[int, Array]]:
    """Rolls and masks, bool [L] each, that bring the entries at `own` to the front in their order.

    An entry moves by as many places as lie before it and are not its own, by the binary digits of that number, the
    lowest first.

    Args:
        own: int32 [B], increasing places.
        total: L, the number of all places.
    """
    there = jnp.zeros(total, bool).at[own].set(True)
    gap = jnp.cumsum(~there)
    moves, by = [], 1
    while by < total:
        moved = jnp.roll(there & (gap & by > 0), -by)
        moves.append((by, moved))
        there, gap = moved | (there & (gap & by == 0)), jnp.where(moved, jnp.roll(gap, -by), gap)
        by *= 2
    return moves


class _RolledRows:
    """The arrays [..., L] of `Rows`, by name and rolled."""

    def __init__(self, rows: Rows):
        self._arrays = {
            name: Rolled(a, rows.ring)
            for name in ("x", "size", "blank", "candidate")
            if (a := getattr(rows, name)) is not None
        }

    def __call__(self, name: str, by: Array) -> Array:
        return self._arrays[name](by)


def _by_slots(function: Callable[[Array], tuple[Array, ...]], count: int, used: Array) -> tuple[Array, ...]:
    """function(t) -> arrays [...], for t < `count`, as arrays [count, ...]; zeros from `used`, int32 [], on."""
    together = min(TOGETHER, count)

    def some(first: Array) -> tuple[Array, ...]:
        return tuple(map(jnp.stack, zip(*(function(first + t) for t in range(together)), strict=True)))

    if count == together:
        return some(jnp.int32(0))
    # The first turn gives the arrays their shapes, and the devices that they vary over.
    whole = tuple(
        jnp.concatenate(
            [a, *[jnp.zeros_like(a) & a if a.dtype == bool else jnp.where(a > 0, 0.0, 0.0)] * more]
        )
        for a in some(jnp.int32(0))
        for more in [count // together - 1]
    )

    def turn(i: Array, out: tuple[Array, ...]) -> tuple[Array, ...]:
        place = i * together
        return tuple(
            lax.dynamic_update_slice_in_dim(o, v, place, 0) for o, v in zip(out, some(place), strict=True)
        )

    return lax.fori_loop(1, -(-used // together), turn, whole)
