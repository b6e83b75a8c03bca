"""Blocks of anchors against all candidates, forward and backward in one pass, alone or on several devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxml.losses.kernels import mining

Array = jax.Array
Aux = dict[str, Array]


class References(NamedTuple):
    """What a batch is compared with in place of itself."""

    embeddings: Array
    """float32 [M, D]"""
    labels: Array
    """int32 [M]"""
    mask: Array | None = None
    """bool [M]: which of them are there; None if all are."""


class Batch(NamedTuple):
    """A batch, or this device's part of it, and what it is compared with."""

    x: Array
    """float32 [B, D]"""
    found: Array
    """float32 [M, D]: embeddings of the candidates."""
    anchors: mining.Anchors
    candidates: mining.Candidates
    axis_name: str | None


class Block(NamedTuple):
    """What the rows of one block of anchors are computed from, besides embeddings."""

    anchors: mining.Anchors
    candidates: mining.Candidates
    masks: mining.Masks
    extra: Any
    """Arrays that the loss asked for, one row per anchor."""


Rows = Callable[[Array, Array, Any, Block], tuple[Array, Aux]]
"""rows(x [b, D], candidates [M, D], options, block) -> (sum over the block's anchors, other sums)."""


LARGEST = 1e37
"""Distances that may exceed this count as overflowed: sums and differences of a few must stay finite, see `rows`."""


def batch(x: Array, labels: Array, references: References | None, axis_name: str | None) -> Batch:
    """Name the anchors and candidates: the references where given, else the batch, gathered over devices.

    References that are not there are zeros from here on, whatever they hold: a product of 0 and NaN is NaN.
    """
    ids = jnp.arange(x.shape[0], dtype=jnp.int32)
    if axis_name is not None:
        ids = ids + jax.lax.axis_index(axis_name) * x.shape[0]
    if references is not None:
        (found, found_labels, mask), found_ids = references, None
        if mask is not None:
            found = jnp.where(mask[:, None], found, 0.0)
    else:
        (found, found_labels), mask = gather((x, labels), axis_name), None
        found_ids = jnp.arange(found.shape[0], dtype=jnp.int32)
    anchors, candidates = mining.facts(labels, ids, found_labels, found_ids, mask)
    x, found, anchors, candidates = vary((x, found, anchors, candidates), axis_name)
    return Batch(x, found, anchors, candidates, axis_name)


def gather(tree: Any, axis_name: str | None) -> Any:
    """Join the parts of all devices along the first axis."""
    if axis_name is None:
        return tree
    return jax.tree.map(partial(jax.lax.all_gather, axis_name=axis_name, tiled=True), tree)


def sum_rows(
    rows: Rows, batch: Batch, options: Any, *, bound: Array, block_size: int | None, extra: Any = ()
) -> tuple[Array, Aux]:
    """Sum a function of anchors and candidates over the anchors of all devices; NaN, with its gradient, if not `sound`.

    Each device walks its own anchors; the sums are added up over devices, so gradients are to be averaged
    (pmean), inside pmap and shard_map alike. Memory is O(block x candidates) forward and backward.

    Args:
        rows: the function of one block; hashable, as it is a static argument.
        batch: from `batch`.
        options: float arrays with gradient, passed to `rows`.
        bound: float32 [], which no distance exceeds, from `distances.largest`.
        block_size: anchors in a block; chosen by `block_rows` if None.
        extra: arrays [B, ...], cut into blocks and passed to `rows`; those of floats have a gradient.
    """
    options = jax.tree.map(lambda o: jnp.asarray(o, jnp.float32), options)
    options, extra = vary((options, extra), batch.axis_name)
    block = min(block_size or block_rows(*shape(batch)), batch.x.shape[0])
    floats, others = (_only(extra, kind) for kind in (True, False))
    own, shared, facts = (batch.x, floats), (batch.found, options), (batch.anchors, others)
    value, aux = _sum_over_blocks(rows, block, own, shared, facts, batch.candidates)
    return jax.tree.map(partial(over_devices, axis_name=batch.axis_name), (value * sound(bound), aux))


def sound(bound: Array) -> Array:
    """1 where all distances are finite, NaN elsewhere: a factor of the loss, and through it of every gradient.

    Losses decide by comparisons who counts. NaN is neither nearer nor farther than anything, so it would drop out
    unseen and leave a finite loss.
    """
    return jnp.where(bound < LARGEST, 1.0, jnp.nan).astype(jnp.float32)


def shape(batch: Batch) -> tuple[int, int]:
    """Numbers of anchors and candidates."""
    return batch.x.shape[0], batch.found.shape[0]


def map_rows(
    function: Callable[[Array, Array, Any, Block], Array],
    batch: Batch,
    options: Any,
    *,
    block_size: int | None,
    extra: Any = (),
) -> Array:
    """One number per anchor: function(x, candidates, options, block) -> [b], as [B].

    Blocks are computed again in the backward pass, so that memory stays O(block x candidates).
    """
    options, extra = vary((options, extra), batch.axis_name)
    anchors = batch.x.shape[0]
    block = min(block_size or block_rows(*shape(batch)), anchors)
    rows = jax.checkpoint(
        lambda own, facts: _rows(function, own, (batch.found, options), facts, batch.candidates)
    )
    args = ((batch.x, extra), (batch.anchors, jax.tree.map(lambda _: None, extra)))
    if block == anchors:
        return rows(*args)
    return jax.lax.map(lambda args: rows(*args), _cut(args, block)).reshape(-1)[:anchors]


def turned(sides: Batch) -> Batch:
    """The sides changed: every candidate is an anchor, and is compared with the anchors of all devices."""
    everybody = References(*gather((sides.x, sides.anchors.labels), sides.axis_name))
    return batch(sides.found, sides.candidates.labels, everybody, sides.axis_name)


def pair_numbers(anchors: mining.Anchors, candidates: mining.Candidates) -> Array:
    """Numbers of positives and of negatives of each anchor, float32 [2, b]; from the labels alone."""
    there = candidates.labels.shape[0] if candidates.mask is None else mining.number(candidates.mask)
    # An anchor is among the candidates of its label, unless these are references.
    positives = anchors.size - (candidates.ids is not None)
    numbers = jnp.stack([positives, there - anchors.size]) * anchors.real[None, :]
    return numbers.astype(jnp.float32)


def over_devices(x: Array, axis_name: str | None) -> Array:
    """Sum over devices."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def number_of_devices(axis_name: str | None) -> int:
    """Devices that the batch is divided over."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def ratio(value: float | Array, count: Array) -> Array:
    """A mean over what counts; 0 where nothing does."""
    return value / jnp.maximum(count, 1.0)


def count(mask: Array) -> Array:
    """Number of true entries, as float32: a count of triplets may exceed an int32."""
    if mask.ndim == 2:
        return jnp.sum(mining.row_count(mask).astype(jnp.float32))
    return jnp.sum(mask.astype(jnp.float32))


def vary(tree: Any, axis_name: str | None) -> Any:
    """Mark arrays that are equal on all devices as device-dependent, which shard_map asks of what meets shards."""
    if axis_name is None:
        return tree
    # Adding a device-dependent zero works in every jax version, and inside pmap.
    zero = 0 * jax.lax.axis_index(axis_name)
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)


def zeros_like(x: Array) -> Array:
    """Zeros that vary over devices as x does, so that they can start a loop that adds to them."""
    return jnp.where(x > 0, 0.0, 0.0)


def block_rows(anchors: int, candidates: int) -> int:
    """Anchors in a block, such that a block x candidates matrix takes 4 MiB on CPU (cache), 64 MiB elsewhere."""
    entries = 2**20 if jax.default_backend() == "cpu" else 2**24
    rows = max(8, entries // candidates)
    # Blocks of equal size, so that the last one is not mostly filling.
    return -(-anchors // -(-anchors // rows))


def is_whole_batch(rows: Array, found: Array, candidates: mining.Candidates) -> bool:
    """Whether a block of this many rows is all of the batch, compared with itself."""
    return candidates.ids is not None and rows.shape[0] == found.shape[0]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum_over_blocks(
    rows: Rows, block: int, own: Any, shared: Any, facts: Any, candidates: mining.Candidates
) -> tuple[Array, Aux]:
    def sums(own: Any, facts: Any) -> tuple[Array, Aux]:
        return _rows(rows, own, shared, facts, candidates)

    if block == own[0].shape[0]:
        return sums(own, facts)
    out = jax.lax.map(lambda args: sums(*args), _cut((own, facts), block))
    return jax.tree.map(lambda s: jnp.sum(s, axis=0), out)


def _rows(rows: Callable[..., Any], own: Any, shared: Any, facts: Any, candidates: mining.Candidates) -> Any:
    (x, floats), (found, options), (anchors, others) = own, shared, facts
    extra = jax.tree.map(lambda a, b: b if a is None else a, floats, others, is_leaf=lambda a: a is None)
    if is_whole_batch(x, found, candidates):
        found = x  # the very same array, so that `pairwise` knows
    return rows(x, found, options, Block(anchors, candidates, mining.masks(anchors, candidates), extra))


def _forward(rows: Rows, block: int, own: Any, shared: Any, facts: Any, candidates: Any) -> Any:
    def sums_and_gradients(own: Any, facts: Any) -> Any:
        def sums(own: Any, shared: Any) -> Any:
            return _rows(rows, own, shared, facts, candidates)

        value, pullback, aux = jax.vjp(sums, own, shared, has_aux=True)
        return (value, aux), pullback(jnp.ones_like(value))

    count = own[0].shape[0]
    if block == count:
        return sums_and_gradients(own, facts)

    def step(of_shared: Any, args: Any) -> Any:
        out, (of_own, more) = sums_and_gradients(*args)
        return jax.tree.map(jnp.add, of_shared, more), (out, of_own)

    of_shared, (out, of_own) = jax.lax.scan(step, jax.tree.map(zeros_like, shared), _cut((own, facts), block))
    out = jax.tree.map(lambda s: jnp.sum(s, axis=0), out)
    return out, (jax.tree.map(lambda g: g.reshape(-1, *g.shape[2:])[:count], of_own), of_shared)


def _backward(rows: Rows, block: int, gradients: Any, cotangents: Any) -> Any:
    of_own, of_shared = jax.tree.map(lambda g: g * cotangents[0], gradients)
    return of_own, of_shared, None, None


_sum_over_blocks.defvjp(_forward, _backward)


def _only(tree: Any, floats: bool) -> Any:
    """A tree with None in place of the arrays that are not of floats, or of those that are."""
    return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.floating) == floats else None, tree)


def _cut(tree: Any, block: int) -> Any:
    """[B, ...] -> [blocks, block, ...]; rows that fill up the last block hold 0: an anchor that is not `real`."""

    def cut(x: Array) -> Array:
        blocks = -(-x.shape[0] // block)
        padding = [(0, blocks * block - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(blocks, block, *x.shape[1:])

    return jax.tree.map(cut, tree)
