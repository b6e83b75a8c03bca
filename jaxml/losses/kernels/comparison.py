"""Says a loss once: `compare` a batch with its candidates, take the `mean` of what a row function says of a block.

A loss is a public function, which checks its arguments, and a row function, which is given one block of anchors and
returns sums over it. All else is here, once: the compiled function, the blocks, the gradient and several devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxml.distances import DISTANCES, dot, l2_normalize, largest, pairwise
from jaxml.losses.kernels import blocks, checks, selected, sharding

Array = jax.Array
Aux = dict[str, Array]


class Comparison(NamedTuple):
    """A batch and what it is compared with."""

    embeddings: Array
    """float32 [B, D]"""
    labels: Array
    """int32 [B]"""
    references: blocks.References | None
    """The candidates; the batch of all devices if None."""
    block_size: int | None
    axis_name: str | None


class Terms(NamedTuple):
    """Sums over a block of anchors, float32 []."""

    value: Array
    """Of what the loss is made of; the only one with a gradient."""
    active: Array
    valid: Array


class Measure(NamedTuple):
    """How near two embeddings are."""

    between: Callable[[Array, Array], Array]
    """[b, D] and [M, D] -> [b, M]"""
    bound: Callable[[Array, Array], Array]
    """A number that none of them exceeds, and that is not finite where an embedding is not."""


MEASURES = {
    **{d: Measure(partial(pairwise, distance=d), partial(largest, distance=d)) for d in DISTANCES},
    "squared, of unit vectors": Measure(
        lambda x, y: pairwise(l2_normalize(x), l2_normalize(y), "squared"),
        lambda x, y: 2.0 * largest(x, y, "cosine"),
    ),
    "inner product": Measure(dot, partial(largest, distance="dot")),
    "cosine similarity": Measure(
        lambda x, y: 1.0 - pairwise(x, y, "cosine"), partial(largest, distance="cosine")
    ),
}


@dataclass(frozen=True)
class Block:
    """One block of b anchors against all M candidates."""

    x: Array
    """float32 [b, D]: embeddings of the anchors."""
    candidates: Array
    """float32 [M, D]: embeddings of the candidates."""
    facts: blocks.Block
    shared: Any
    """The second half of what `prepare` returned."""
    measure: str
    scale: Array | None

    @property
    def measured(self) -> Array:
        """float32 [b, M]: distances or similarities, as `mean` was asked for, times its `scale`."""
        d = MEASURES[self.measure].between(self.x, self.candidates)
        return d if self.scale is None else self.scale * d

    @property
    def positive(self) -> Array:
        """bool [b, M]: which candidates are of the anchor's class and are not the anchor itself."""
        return self.facts.masks.positive

    @property
    def negative(self) -> Array:
        """bool [b, M]: which candidates are of another class."""
        return self.facts.masks.negative

    @property
    def positives(self) -> Array:
        """float32 [b]: how many positives an anchor has."""
        return blocks.pair_numbers(self.facts.anchors, self.facts.candidates)[0]

    @property
    def negatives(self) -> Array:
        """float32 [b]: how many negatives an anchor has."""
        return blocks.pair_numbers(self.facts.anchors, self.facts.candidates)[1]

    @property
    def labels(self) -> Array:
        """int32 [b]: labels of the anchors."""
        return self.facts.anchors.labels

    @property
    def real(self) -> Array:
        """bool [b]: false for rows that only fill up the last block."""
        return self.facts.anchors.real

    @property
    def own(self) -> Any:
        """The anchors' rows of `own`, or of the first half of what `prepare` returned."""
        return self.facts.extra["own"]


RowFunction = Callable[..., Terms]
"""rows(block, *options, **static) -> Terms"""

Each = Callable[[Callable[..., Array], blocks.Batch], Array]
"""each(function, sides) -> float32 [B], one number for each anchor of `sides`: function(block, *options, **static)."""


def compare(
    embeddings: Any,
    labels: Any,
    references: Any = None,
    reference_labels: Any = None,
    reference_mask: Any = None,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Comparison:
    """Check a batch and what it is compared with: the references where given, else itself.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.
    """
    checks.block_size(block_size)
    x, y, r = checks.batch(embeddings, labels, references, reference_labels, reference_mask, axis_name)
    return Comparison(x, y, r, block_size, axis_name)


def compare_with_classes(
    embeddings: Any,
    labels: Any,
    name: str,
    points: Any,
    ndim: int,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Comparison:
    """Check a batch and the learned points of the classes that it is compared with, called `name` in messages.

    Args:
        embeddings: float [B, D].
        labels: int [B], class indices.
        name: of the parameter.
        points: float [classes, D] or, with ndim 3, [classes, points of each, D]; in this order they are candidates.
        ndim: 2 or 3.
        block_size: as in `compare`.
        axis_name: as in `compare`.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.
    """
    checks.block_size(block_size)
    x, y = checks.labelled(embeddings, labels)
    points, y = checks.centres(name, points, y, x.shape[1], ndim)
    return Comparison(x, y, _as_references(points), block_size, axis_name)


@jax.jit
def _as_references(points: Array) -> blocks.References:
    points = sharding.replicated(points)
    classes, width = points.shape[0], points.shape[-1]
    points = points.reshape(-1, width)
    return blocks.References(points, jnp.repeat(jnp.arange(classes, dtype=jnp.int32), len(points) // classes))


def mean(
    rows: RowFunction,
    comparison: Comparison,
    *options: Any,
    measure: str,
    scale: Any = None,
    per: str | None = "valid",
    own: Any = (),
    key: Array | None = None,
    prepare: Callable[..., tuple[Any, Any]] | None = None,
    turned: bool = False,
    **static: Any,
) -> tuple[Array, Aux]:
    """Add up what a row function says of all anchors of all devices, and divide by a number of them.

    Value and gradient are computed in one pass over blocks of anchors, in memory O(block_size x M). Both are NaN where
    an embedding or an option is not finite, or a distance exceeds what float32 can hold.

    Args:
        rows: rows(block, *options, **static) -> Terms; a function of a module, since it is compiled by name.
        comparison: from `compare` or `compare_with_classes`.
        options: float arrays with gradient.
        measure: one of MEASURES, what `block.measured` is.
        scale: float [] with gradient, by which it is multiplied.
        per: divide by the number of `active` or `valid` terms or of all `anchors`; a plain sum if None.
        own: arrays [B, ...], whose rows are in `block.own`; those of floats have a gradient.
        key: random key, from which every anchor has a seed, whatever the blocks and devices.
        prepare: prepare(sides, each, *options) -> (own, shared), called first, with this device's anchors as `sides`.
        turned: take the candidates as anchors, and compare them with the batch.
        static: for `rows`; hashable, and compiled for each value.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` terms.
    """
    c = comparison
    return _mean(
        *(c.embeddings, c.labels, own, c.references, options, scale, key),
        rows=rows,
        measure=measure,
        per=per,
        prepare=prepare,
        turned=turned,
        block_size=c.block_size,
        static=tuple(sorted(static.items())),
        axis_name=c.axis_name,
    )


@partial(
    jax.jit,
    static_argnames=("rows", "measure", "per", "prepare", "turned", "block_size", "static", "axis_name"),
)
@sharding.divided(3)
def _mean(
    x: Array,
    labels: Array,
    own: Any,
    references: blocks.References | None,
    options: Any,
    scale: Any,
    key: Array | None,
    *,
    rows: RowFunction,
    measure: str,
    per: str | None,
    prepare: Callable[..., tuple[Any, Any]] | None,
    turned: bool,
    block_size: int | None,
    static: tuple[tuple[str, Any], ...],
    axis_name: str | None,
) -> tuple[Array, Aux]:
    sides = blocks.batch(x, labels, references, axis_name)
    sides = blocks.turned(sides) if turned else sides
    options, scale = jax.tree.map(lambda o: jnp.asarray(o, jnp.float32), (options, scale))
    bound = MEASURES[measure].bound(sides.x, sides.found)
    bound = bound if scale is None else bound * scale
    bound = sum((jnp.max(jnp.abs(o)) for o in jax.tree.leaves(options)), bound)

    def on_blocks(function: Callable[..., Any]) -> Callable[..., Any]:
        def on_block(x: Array, found: Array, shared: Any, facts: blocks.Block) -> Any:
            options, scale, shared = shared
            block = Block(x, found, facts, shared, measure, scale)
            return function(block, *options, **dict(static))

        return on_block

    def each(function: Callable[..., Array], sides: blocks.Batch) -> Array:
        return blocks.map_rows(on_blocks(function), sides, (options, scale, ()), block_size=block_size)

    def sums(block: Block, *options: Array, **static: Any) -> tuple[Array, Aux]:
        value, active, valid = rows(block, *options, **static)
        return value, {"active": active, "valid": valid}

    own, shared = (own, ()) if prepare is None else prepare(sides, each, *options)
    extra = {"own": own}
    if key is not None:
        extra["seeds"] = selected.seeds(key, sides.anchors.ids)
    value, aux = blocks.sum_rows(
        on_blocks(sums), sides, (options, scale, shared), bound=bound, block_size=block_size, extra=extra
    )
    devices = blocks.number_of_devices(axis_name)
    anchors = sides.x.shape[0] * devices
    if turned:
        # Every device has compared all candidates with all of the batch.
        value, aux, anchors = value / devices, {k: n / devices for k, n in aux.items()}, sides.x.shape[0]
    if per is not None:
        value = blocks.ratio(value, jnp.float32(anchors) if per == "anchors" else aux[per])
    return value, aux
