"""`tiles.sweep` of a hinge as one kernel for TPUs, written in Pallas: nothing of a tile leaves the chip.

The vector unit is what bounds it, so it compares little. Limits are sorted, and a distance below one of them is below
all greater ones: it is compared with every fourth limit, then with the three before the first that it is not below. How
many limits it is below is kept as counts of eight bits, four in an integer, so that sums over negatives take one
addition for four limits. The matrix unit works at the same time, for the products of some anchors stand between the
comparisons of others.

Rows lie along lanes, as [D, rows], so that D needs no padding; a tile is [candidates, anchors] as in `tiles`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxml.losses.kernels.measures import Metric
from jaxml.losses.kernels.ordering import zeros
from jaxml.losses.kernels.tiles import HIGHEST, Limits, Side, Sums, rounding

Array = jax.Array
Kinds = list[Array]
"""No limits, upper limits, or upper and lower ones: float32 [T, n], each kind from the greatest to the least, T a
multiple of WORD."""

LANES, SUBLANES = 128, 8
"""Shape of a register. LANES is also the number of anchors, and of candidates, that are compared at a time."""
WORD, BITS = 4, 8
"""Counts in an integer, and their bits."""
Below = Callable[[Array, Array], Array]
MOST = 512, 1024
"""Candidates and anchors in a tile at most. A count of eight bits holds 255 x SUBLANES candidates."""
BYTES = 8 * 2**20
"""Memory for tiles of embeddings, which leaves as much of a kernel's 16 MiB to what is computed of them."""
BELOW = operator.lt, operator.le
"""How distances compare with upper and with lower limits: inside are those below the one and not below the other."""


def tile_size(width: int) -> tuple[int, int] | None:
    """Most candidates and anchors in a tile of embeddings of a width; None if they are too wide for the kernel."""
    candidates, anchors = MOST
    while anchors >= LANES:
        # Candidates, anchors and the gradient of these; of each the next tile is fetched while one is worked on.
        if 2 * 4 * width * (candidates + 2 * anchors) <= BYTES:
            return candidates, anchors
        anchors //= 2
        candidates = min(candidates, anchors)
    return None


def sweep(
    anchors: Side,
    limits: Limits,
    middle: Array,
    candidates: Side,
    mirrored: Limits | None,
    used: Array,
    *,
    metric: Metric,
) -> tuple[Sums, Array, Array | None]:
    """`tiles.sweep` with `tiles.hinge`, for embeddings of a width that has a `tile_size`."""
    del used
    own, slots = _sorted(limits)
    others = [] if mirrored is None else _sorted(mirrored)[0]
    value, numbers, of_anchors = _sweep(anchors, own, middle, candidates, others, metric)
    number = reduce(operator.sub, map(_unsorted, numbers, slots))[: limits.high.shape[0]]
    sums = Sums(value, number, number)
    if mirrored is not None:
        return sums, of_anchors, None
    # Once more with the two sides exchanged: in one pass the gradient of all candidates would have to stay on the chip.
    *_, of_candidates = _sweep(candidates, [], jnp.zeros_like(candidates.size), anchors, own, metric)
    return sums, of_anchors, jnp.where((candidates.group >= 0)[:, None], of_candidates, 0.0)


def _sorted(limits: Limits) -> tuple[Kinds, list[Array]]:
    """Limits [T, n] in their order, and the slots that they come from, int32 [T, n] for each kind."""
    kinds = [limits.high]
    if limits.low is not None:
        # A slot in which nothing can be inside would have a negative count.
        kinds = [jnp.where(limits.low < limits.high, kind, -jnp.inf) for kind in (limits.high, limits.low)]
    empty = ((0, -limits.high.shape[0] % WORD), (0, 0))
    kinds = [jnp.pad(kind, empty, constant_values=-jnp.inf) for kind in kinds]
    slot = lax.broadcasted_iota(jnp.int32, kinds[0].shape, 0)
    pairs = [lax.sort((-kind, slot), dimension=0, num_keys=1) for kind in kinds]
    return [-kind for kind, _ in pairs], [slots for _, slots in pairs]


def _unsorted(numbers: Array, slots: Array) -> Array:
    """Numbers of sorted limits, float32 [T, n], in the order of their slots, int32 [T, n]."""
    return lax.sort((slots, numbers), dimension=0, num_keys=1)[1]


def _sweep(
    anchors: Side, limits: Kinds, middle: Array, candidates: Side, mirrored: Kinds, metric: Metric
) -> tuple[Array, list[Array], Array]:
    """The anchors' values [n], the numbers of negatives below each kind of limits [T, n], and the gradient [n, D]."""
    count, depth = anchors.x.shape
    most = tile_size(depth)
    if most is None:
        raise ValueError(f"embeddings of {depth} numbers are too wide for the kernel for TPUs")
    height, width = (_even(side.x.shape[0], m) for side, m in zip((candidates, anchors), most, strict=True))
    own = _across(anchors, width), _filled(limits, width, -jnp.inf), _filled(middle[None], width, 0)
    others = _across(candidates, height), _filled(mirrored, height, -jnp.inf)
    total = own[0].x.shape[1]

    def specs(tree: Any, columns: int, axis: int) -> Any:
        def spec(a: Any) -> pl.BlockSpec:
            return pl.BlockSpec((a.shape[0], columns), lambda *step: (0, step[axis]))

        return jax.tree.map(spec, tree)

    rows = (SUBLANES, SUBLANES, depth, *(kind.shape[0] for kind in limits))
    # Shapes only, but of arrays that vary over devices as the anchors do.
    out = [jax.eval_shape(partial(zeros, (n, total)), own[0].x) for n in rows]
    words = [(kind.shape[0] // WORD * SUBLANES, width) for kind in limits]
    value, weight, pulled, *numbers = pl.pallas_call(
        partial(_kernel, metric=metric, uncertain=rounding(depth)),
        grid=(total // width, others[0].x.shape[1] // height),
        in_specs=[specs(own, width, 0), specs(others, height, 1)],
        out_specs=specs(out, width, 0),
        out_shape=out,
        scratch_shapes=[pltpu.VMEM(shape, jnp.int32) for shape in words],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        name="negatives",
    )(own, others)
    gradient = (pulled - jnp.sum(weight, axis=0, keepdims=True) * own[0].x).T
    return jnp.sum(value, axis=0)[:count], [n[:, :count] for n in numbers], gradient[:count]


def _even(count: int, most: int) -> int:
    """Rows in a tile, a multiple of LANES: as few tiles as can be, of about the same size."""
    tiles = -(-count // most)
    return -(-count // (tiles * LANES)) * LANES


def _across(side: Side, multiple: int) -> Side:
    """n rows along the last axis, [D, n] and [1, n], up to a multiple; those added are no candidates."""
    x, size = _filled((side.x.T, side.size[None]), multiple, 0)
    return Side(x, size, _filled(side.group[None], multiple, -1))


def _filled(tree: Any, multiple: int, value: float) -> Any:
    """Arrays [..., n] up to a multiple of columns, with a value."""

    def fill(a: Array) -> Array:
        return jnp.pad(a, ((0, 0), (0, -a.shape[1] % multiple)), constant_values=value)

    return jax.tree.map(fill, tree)


def _kernel(
    own: Any, others: Any, value: Any, weight: Any, pulled: Any, *rest: Any, metric: Metric, uncertain: float
) -> None:
    """One tile. All are references to memory, the last ones to the numbers of each kind of limits and to counts."""
    (anchors, limits, middle), (candidates, mirrored) = own, others
    numbers, counts = rest[: len(limits)], rest[len(limits) :]

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for sums in (value, weight, pulled, *numbers):
            sums[...] = jnp.zeros_like(sums)

    for count in counts:
        count[...] = jnp.zeros_like(count)
    places = [pl.ds(first, LANES) for first in range(0, anchors.x.shape[1], LANES)]

    def some_candidates(turn: Array, _: None) -> None:
        here = pl.ds(pl.multiple_of(turn * LANES, LANES), LANES)
        x, size, group = candidates.x[:, here], candidates.size[:, here].T, candidates.group[:, here].T
        doubled = -2.0 * x.T
        theirs = [kind[:, here].T for kind in mirrored]

        def product(at: Any) -> Array:
            return _dot(doubled, anchors.x[:, at])

        def compare(at: Any, products: Array) -> Array:
            """Adds to the sums of some anchors, and returns the weights of their gradient."""
            scale = size + anchors.size[:, at]
            s = scale + products
            # Written so that NaN stays NaN.
            s = jnp.where(s <= uncertain * scale, 0.0, s)
            distances = metric.value(s)
            far = jnp.where((group != anchors.group[:, at]) & (group >= 0), distances, jnp.inf)
            inside = []
            for kind, below, count in zip(limits, BELOW, counts, strict=False):
                words = _words(far, [kind[t : t + 1, at] for t in range(kind.shape[0])], below)
                count[:, at] += jnp.concatenate([_folded(word) for word in words])
                inside.append(reduce(jnp.add, words))
            c = _total(_difference(inside)) if inside else jnp.zeros_like(s)
            value[:, at] += _folded(c * (middle[:, at] - distances))
            if theirs:
                c += _difference(
                    [
                        _number(far, [kind[:, t : t + 1] for t in range(kind.shape[1])], below)
                        for kind, below in zip(theirs, BELOW, strict=False)
                    ]
                )
            w = c * metric.weight(s)
            weight[:, at] += _folded(w)
            return w

        products, weights = [product(places[0])], list[Array]()
        for i, at in enumerate(places):
            # In this order the compiler has products to work on while it compares.
            if i + 1 < len(places):
                products.append(product(places[i + 1]))
            if i > 0:
                pulled[:, places[i - 1]] += _dot(x, weights[i - 1])
            weights.append(compare(at, products[i]))
        pulled[:, places[-1]] += _dot(x, weights[-1])

    lax.fori_loop(jnp.int32(0), jnp.int32(candidates.x.shape[1] // LANES), some_candidates, None)
    for number, count in zip(numbers, counts, strict=True):
        for t in range(number.shape[0]):
            word = count[t // WORD * SUBLANES : (t // WORD + 1) * SUBLANES, :]
            number[t : t + 1, :] += jnp.sum(_count(word, t % WORD), axis=0, keepdims=True)


def _difference(kinds: list[Array]) -> Array:
    """Counts below upper limits less those below lower limits, which are never more; arrays of one shape."""
    return reduce(operator.sub, kinds)


def _dot(a: Array, b: Array) -> Array:
    """The product of [m, k] and [k, n] in full float32 precision."""
    return lax.dot(a, b, precision=HIGHEST, preferred_element_type=jnp.float32)


def _words(distances: Array, limits: list[Array], below: Below) -> list[Array]:
    """Integers of WORD counts, one for each limit [1, n]: 1 where a distance, of [m, n], is below it."""
    *marks, whole = (sum(1 << BITS * k for k in range(n)) for n in range(1, WORD + 1))
    full, part = _search(distances, limits, below, [jnp.int32(mark) for mark in marks])
    following = [jnp.where(mask, part, 0) for mask in full[:-1]]
    return [jnp.where(mask, whole, rest) for mask, rest in zip(full, [part, *following], strict=True)]


def _number(distances: Array, limits: list[Array], below: Below) -> Array:
    """The number of limits [m, 1] that each distance is below, float32 [m, n]."""
    full, part = _search(distances, limits, below, [jnp.float32(n) for n in range(1, WORD)])
    whole = _last(full[:-1], [jnp.float32(n * WORD) for n in range(1, len(full))], jnp.zeros_like(part))
    return jnp.where(full[-1], jnp.float32(len(limits)), whole + part)


def _search(
    distances: Array, limits: list[Array], below: Below, marks: list[Array]
) -> tuple[list[Array], Array]:
    """Whether a distance is below all of each WORD limits, and a mark of its place among the first that it is not."""
    full = [below(distances, limit) for limit in limits[WORD - 1 :: WORD]]
    part = limits[: WORD - 1]
    for i, mask in enumerate(full[:-1], 1):
        part = [jnp.where(mask, limits[i * WORD + k], limit) for k, limit in enumerate(part)]
    return full, _last(
        [below(distances, limit) for limit in part], marks, jnp.zeros_like(marks[0], shape=distances.shape)
    )


def _last(masks: list[Array], marks: list[Array], mark: Array) -> Array:
    """The mark that belongs to the last of the masks [m, n] that holds, else `mark`."""
    for mask, value in zip(masks, marks, strict=True):
        mark = jnp.where(mask, value, mark)
    return mark


def _count(word: Array, k: int) -> Array:
    """The k-th count of integers of any shape, as float32."""
    return ((word >> (BITS * k)) & ((1 << BITS) - 1)).astype(jnp.float32)


def _total(word: Array) -> Array:
    """The sum of all counts of integers of any shape, which one count must be able to hold."""
    word += word >> (2 * BITS)
    return _count(word + (word >> BITS), 0)


def _folded(tile: Array) -> Array:
    """Sums of every SUBLANES-th row, as registers are added: [SUBLANES, anchors]."""
    return jnp.sum(tile.reshape(-1, SUBLANES, tile.shape[1]), axis=0, dtype=tile.dtype)
