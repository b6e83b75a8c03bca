"""Anchors against negatives, tile by tile: distances, comparisons and products of one tile at a time.

Here the positives of an anchor are no more than limits of its distances. For every negative we count how many of the
anchor's limits lie above its distance, and for every limit how many negatives lie below it: for a hinge these numbers
are the gradient. Of an array of anchors x candidates only one tile exists at a time. Tiles are [candidates, anchors],
so that an anchor's limits lie along rows, as they are kept, and counts of negatives are sums of whole rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxml.losses.kernels import formulas
from jaxml.losses.kernels.measures import Metric
from jaxml.losses.kernels.ordering import zeros

Array = jax.Array
HIGHEST = lax.Precision.HIGHEST
EPS = float(jnp.finfo(jnp.float32).eps)


def rounding(width: int) -> float:
    """Share of |x|^2 + |y|^2 by which |x|^2 + |y|^2 - 2 x . y is uncertain; sums over more dimensions round more."""
    return EPS * max(4.0, 0.5 * width**0.5)


class Side(NamedTuple):
    """Rows on one side of a tile."""

    x: Array
    """float32 [n, D]"""
    size: Array
    """float32 [n]"""
    group: Array
    """int32 [n]; -1 for rows that are no candidates."""


class Limits(NamedTuple):
    """Which negatives the slots of n anchors count: those at distances low < d < high. Arrays [T, n]."""

    low: Array | None
    """None is no limit."""
    high: Array
    """-inf in an empty slot."""
    near: Array
    """Distance of the positive."""


class Sums(NamedTuple):
    """Sums over the negatives of n anchors."""

    value: Array
    """float32 [n]: sum of the terms; for a hinge of count x (middle - d), see `hinge`."""
    number: Array
    """float32 [T, n]: negatives inside the limits of a slot."""
    slope: Array
    """float32 [T, n]: derivative of the value along `near`; the same as `number` for a hinge."""


Compare = Callable[[Array, Limits, Limits | None, Array, Array], tuple[Sums, Array]]
"""compare(distances [m, b], limits [T, b], limits of the candidates [T, m] or None, middle [b], used) -> the anchors'
sums, and the derivative of the value along the distances with its sign turned [m, b]. Distances of other than negatives
are infinite. Where the candidates have limits they are anchors too, and the derivative is that of their terms as well.
Slots from `used` on are empty."""


def sweep(
    anchors: Side,
    limits: Limits,
    middle: Array,
    candidates: Side,
    mirrored: Limits | None,
    used: Array,
    *,
    compare: Compare,
    metric: Metric,
    tile: tuple[int, int],
) -> tuple[Sums, Array, Array | None]:
    """The anchors' sums over all negatives, and the gradients of anchors [n, D] and of candidates [M, D].

    With limits of the candidates (`mirrored`) the gradient of the anchors is complete, since d_ij = d_ji, and there is
    none of the candidates: two products a tile instead of three.

    Args:
        anchors: n anchors.
        limits: of the anchors.
        middle: float32 [n], a number near the anchor's limits, relative to which distances are summed.
        candidates: M candidates.
        mirrored: limits of the candidates, if these are all anchors, here or on another device.
        used: int32 [], slots that are not empty in all rows.
        compare: what is computed of a tile of distances.
        metric: the distance.
        tile: candidates and anchors in a tile.
    """
    count, total = anchors.x.shape[0], candidates.x.shape[0]
    height, width = min(tile[0], total), min(tile[1], count)
    anchors, limits, middle = filled((anchors, limits, middle), width)
    candidates, mirrored = filled((candidates, mirrored), height)
    one = partial(_tile, used=used, compare=compare, metric=metric)

    def column(i: Array) -> tuple[Sums, Array, Array | None]:
        """All candidates against some anchors."""
        own = part((anchors, limits, middle), i, width)
        if height == candidates.x.shape[0]:
            return one(own, (candidates, mirrored))

        def step(j: Array, carry: Any) -> Any:
            sums, of_anchors, of_candidates = carry
            more, of_a, of_c = one(own, part((candidates, mirrored), j, height))
            if of_c is not None:
                of_c = lax.dynamic_slice_in_dim(of_candidates, j * height, height) + of_c
                of_candidates = lax.dynamic_update_slice_in_dim(of_candidates, of_c, j * height, 0)
            return jax.tree.map(jnp.add, sums, more), of_anchors + of_a, of_candidates

        first = one(own, part((candidates, mirrored), jnp.int32(0), height))
        of_c = None
        if first[2] is not None:
            rest = candidates.x.shape[0] - height
            of_c = jnp.concatenate([first[2], zeros((rest, first[2].shape[1]), first[2])])
        return lax.fori_loop(1, candidates.x.shape[0] // height, step, (*first[:2], of_c))

    turns = anchors.x.shape[0] // width
    if turns == 1:
        sums, of_anchors, of_candidates = column(jnp.int32(0))
    else:
        start = None if mirrored is not None else zeros(candidates.x.shape, candidates.x)

        def turn(carry: Array | None, i: Array) -> tuple[Array | None, Any]:
            sums, of_a, of_c = column(i)
            return None if of_c is None or carry is None else carry + of_c, (sums, of_a)

        of_candidates, (sums, of_anchors) = lax.scan(turn, start, jnp.arange(turns, dtype=jnp.int32))
        sums = jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], -1), sums)
        of_anchors = of_anchors.reshape(anchors.x.shape)
    sums = jax.tree.map(lambda a: a[..., :count], sums)
    return sums, of_anchors[:count], None if of_candidates is None else of_candidates[:total]


def _tile(
    own: tuple[Any, ...], others: tuple[Any, ...], *, used: Array, compare: Compare, metric: Metric
) -> tuple[Sums, Array, Array | None]:
    """`sweep` of one tile: its own anchors, limits and middle, and others: candidates and their limits."""
    (anchors, limits, middle), (candidates, mirrored) = own, others
    s = square(candidates, anchors)
    negative = (candidates.group[:, None] != anchors.group[None, :]) & (candidates.group >= 0)[:, None]
    distances = jnp.where(negative, metric.value(s), jnp.inf)
    sums, slopes = compare(distances, limits, mirrored, middle, used)
    w = -slopes * metric.weight(s)
    pulled = lax.dot_general(w, candidates.x, (((0,), (0,)), ((), ())), precision=HIGHEST)
    of_anchors = jnp.sum(w, axis=0)[:, None] * anchors.x - pulled
    if mirrored is not None:
        return sums, of_anchors, None
    return (
        sums,
        of_anchors,
        jnp.sum(w, axis=1)[:, None] * candidates.x - lax.dot(w, anchors.x, precision=HIGHEST),
    )


def square(a: Side, b: Side) -> Array:
    """Squared distances of the rows of a [n, D] and b [m, D], [n, m]; 0 where no more than rounding is left."""
    scale = a.size[:, None] + b.size[None, :]
    s = scale - 2.0 * lax.dot_general(a.x, b.x, (((1,), (1,)), ((), ())), precision=HIGHEST)
    # Written so that NaN stays NaN.
    return jnp.where(s <= rounding(a.x.shape[1]) * scale, 0.0, s)


def hinge(
    distances: Array, limits: Limits, mirrored: Limits | None, middle: Array, used: Array
) -> tuple[Sums, Array]:
    """The `Compare` of the hinges: counts, all slots at once.

    The value is the sum of c (middle - d) over negatives d, c being the number of limits that d is inside. To become
    a sum over triplets it lacks the sum over slots of their number times (near + margin - middle). Relative to
    `middle` neither sum is large compared with the sum of both.
    """
    del used
    slots = limits.high.shape[0]
    c = reduced(jnp.add, (inside(distances, limits, t).astype(jnp.float32) for t in range(slots)))
    # Written out as the opposite: XLA would keep the masks in memory to use them twice.
    others = [jnp.sum(outside(distances, limits, t).astype(jnp.float32), axis=0) for t in range(slots)]
    number = distances.shape[0] - jnp.stack(others)
    value = jnp.sum(jnp.where(c > 0, c * (middle[None, :] - distances), 0.0), axis=0)
    if mirrored is not None:
        c += reduced(jnp.add, (inside(distances.T, mirrored, t).T.astype(jnp.float32) for t in range(slots)))
    return Sums(value, number, number), c


def smooth(
    formula: formulas.Formula,
    distances: Array,
    limits: Limits,
    mirrored: Limits | None,
    middle: Array,
    used: Array,
) -> tuple[Sums, Array]:
    """The `Compare` of the smooth formulas: values and slopes of near - d, one slot at a time."""
    del mirrored, middle

    def slot(t: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        value, number, slope, slopes = carry
        own = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, t, 1), limits)
        mask = inside(distances, own, 0)
        x = jnp.where(mask, own.near - distances, 0.0)
        # The barrier: two sums use the slopes, and each would compute them anew.
        s = lax.optimization_barrier(jnp.where(mask, formula.slope(x), 0.0))
        n = jnp.sum(mask.astype(jnp.float32), axis=0)[None, :]
        value = value + jnp.sum(jnp.where(mask, formula.value(x), 0.0), axis=0)
        number = lax.dynamic_update_slice_in_dim(number, n, t, 0)
        slope = lax.dynamic_update_slice_in_dim(slope, jnp.sum(s, axis=0)[None, :], t, 0)
        return value, number, slope, slopes + s

    start = (
        zeros(distances.shape[1:], limits.near),
        zeros(limits.high.shape, limits.near),
        zeros(limits.high.shape, limits.near),
        zeros(distances.shape, limits.near),
    )
    *sums, slopes = lax.fori_loop(0, used, slot, start)
    return Sums(*sums), slopes


def inside(d: Array, limits: Limits, t: int) -> Array:
    """Which distances [m, b] are within the limits of slot t."""
    return within(d, jax.tree.map(lambda a: a[t][None, :], limits))


def within(d: Array, limits: Limits) -> Array:
    """Which distances are within limits that broadcast against them."""
    below = d < limits.high
    return below if limits.low is None else below & (d > limits.low)


def outside(d: Array, limits: Limits, t: int) -> Array:
    """The opposite of `inside`, of distances [m, b]."""
    above = d >= limits.high[t][None, :]
    return above if limits.low is None else above | (d <= limits.low[t][None, :])


def reduced(function: Callable[[Array, Array], Array], terms: Iterable[Array]) -> Array:
    """The terms, arrays of one shape, joined two by two."""
    return reduce(function, terms)


def filled(tree: tuple[Any, ...], multiple: int) -> tuple[Any, ...]:
    """Sides, limits [T, n] and arrays [n], filled up to a multiple of rows.

    Rows that are added are no candidates, and nothing is inside their limits.
    """

    def fill(x: Array, value: float, axis: int = 0) -> Array:
        padding = [(0, -x.shape[axis] % multiple) if i == axis else (0, 0) for i in range(x.ndim)]
        return jnp.pad(x, padding, constant_values=value)

    def part(value: Any) -> Any:
        if isinstance(value, Side):
            return Side(fill(value.x, 0), fill(value.size, 0), fill(value.group, -1))
        if isinstance(value, Limits):
            low = None if value.low is None else fill(value.low, jnp.inf, 1)
            return Limits(low, fill(value.high, -jnp.inf, 1), fill(value.near, 0, 1))
        return None if value is None else fill(value, 0)

    return tuple(map(part, tree))


def part(tree: tuple[Any, ...], i: Array, count: int) -> tuple[Any, ...]:
    """The i-th `count` rows of sides, limits and arrays [n]; limits [T, n] are cut along their second axis."""

    def part(value: Any) -> Any:
        axis = 1 if isinstance(value, Limits) else 0
        return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, i * count, count, axis), value)

    return tuple(map(part, tree))
