"""The loop over blocks of anchors: value and gradient in one pass over them, on one device or several."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.losses.kernels.blocks import Block, Sides, Terms, is_whole_batch, sound
from jaxml.losses.kernels.devices import over_devices, vary, zeros_like
from jaxml.losses.kernels.relations import Candidates, masks

Array = jax.Array

FEW = 128
"""Rows of a block with which a product is about as quick as with more."""


def sum_over_blocks(
    terms: Callable[[Block, Any], Terms],
    sides: Sides,
    options: Any,
    *,
    bound: Array,
    block_size: int | None,
    own: Any = (),
) -> Terms:
    """Sum a function of a block over the anchors of all devices; NaN, with its gradient, if not `sound`.

    Each device computes its own anchors; the sums are added up over devices, so gradients are to be averaged
    (pmean), inside pmap and shard_map alike. Memory is O(block_size x M) forward and backward.

    Args:
        terms: terms(block, options); hashable, as it is a static argument.
        sides: from `sides`.
        options: float arrays with gradient, passed to `terms`.
        bound: float32 [], which no distance exceeds, from `distances.largest`.
        block_size: anchors in a block; chosen by `block_rows` if None.
        own: arrays [B, ...], cut into blocks as `block.own`; those of floats have a gradient.
    """
    options = jax.tree.map(lambda o: jnp.asarray(o, jnp.float32), options)
    options, own = vary((options, own), sides.axis_name)
    floats, others = (_only(own, kind) for kind in (True, False))
    sums = _sum_over_blocks(
        terms,
        _block_size(block_size, sides),
        (sides.x, floats),
        (sides.candidates, options),
        (sides.anchor_facts, others),
        sides.candidate_facts,
    )
    sums = sums._replace(value=sums.value * sound(bound))
    return jax.tree.map(partial(over_devices, axis_name=sides.axis_name), sums)


def map_over_blocks(
    function: Callable[[Block, Any], Array],
    sides: Sides,
    options: Any,
    *,
    block_size: int | None,
    own: Any = (),
) -> Array:
    """Numbers of each anchor: function(block, options) -> [b, ...], as [B, ...].

    Blocks are computed again in the backward pass, so that memory stays O(block_size x M).
    """
    options, own = vary((options, own), sides.axis_name)
    anchors = sides.x.shape[0]
    size = _block_size(block_size, sides)
    of_block = jax.checkpoint(
        lambda own, facts: _of_block(function, own, (sides.candidates, options), facts, sides.candidate_facts)
    )
    args = ((sides.x, own), (sides.anchor_facts, jax.tree.map(lambda _: None, own)))
    if size == anchors:
        return of_block(*args)
    out = jax.lax.map(lambda args: of_block(*args), _cut(args, size))
    return out.reshape(-1, *out.shape[2:])[:anchors]


def block_rows(anchors: int, candidates: int) -> int:
    """Anchors in a block, such that a block x candidates matrix takes 4 MiB on CPU (cache), 64 MiB elsewhere.

    It takes up to eight times as much for FEW rows: with fewer, products do little with the candidates that they read.
    """
    entries = 2**20 if jax.default_backend() == "cpu" else 2**24
    rows = max(8, entries // candidates, min(FEW, 8 * entries // candidates))
    # Blocks of equal size, so that the last one is not mostly filling.
    return -(-anchors // -(-anchors // rows))


def _block_size(asked: int | None, sides: Sides) -> int:
    anchors, candidates = sides.x.shape[0], sides.candidates.shape[0]
    return min(asked or block_rows(anchors, candidates), anchors)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum_over_blocks(
    terms: Callable[..., Terms], size: int, own: Any, shared: Any, facts: Any, candidates: Candidates
) -> Terms:
    def sums(own: Any, facts: Any) -> Terms:
        return _of_block(terms, own, shared, facts, candidates)

    if size == own[0].shape[0]:
        return sums(own, facts)
    out = jax.lax.map(lambda args: sums(*args), _cut((own, facts), size))
    return jax.tree.map(lambda s: jnp.sum(s, axis=0), out)


def _of_block(function: Callable[..., Any], own: Any, shared: Any, facts: Any, candidates: Candidates) -> Any:
    """A function of one block, from its parts with a gradient (own, shared) and without (facts, candidates)."""
    (x, floats), (embeddings, options), (anchors, others) = own, shared, facts
    arrays = jax.tree.map(lambda a, b: b if a is None else a, floats, others, is_leaf=lambda a: a is None)
    if is_whole_batch(x, embeddings, candidates):
        embeddings = x  # the very same array, so that `pairwise` knows
    block = Block(x, embeddings, anchors, candidates, *masks(anchors, candidates), own=arrays)
    return function(block, options)


def _forward(
    terms: Callable[..., Terms], size: int, own: Any, shared: Any, facts: Any, candidates: Any
) -> Any:
    def sums_and_gradients(own: Any, facts: Any) -> Any:
        def sums(own: Any, shared: Any) -> tuple[Array, Terms]:
            out = _of_block(terms, own, shared, facts, candidates)
            return out.value, out

        value, pullback, out = jax.vjp(sums, own, shared, has_aux=True)
        return out, pullback(jnp.ones_like(value))

    anchors = own[0].shape[0]
    if size == anchors:
        return sums_and_gradients(own, facts)

    def step(of_shared: Any, args: Any) -> Any:
        out, (of_own, more) = sums_and_gradients(*args)
        return jax.tree.map(jnp.add, of_shared, more), (out, of_own)

    of_shared, (out, of_own) = jax.lax.scan(step, jax.tree.map(zeros_like, shared), _cut((own, facts), size))
    out = jax.tree.map(lambda s: jnp.sum(s, axis=0), out)
    return out, (jax.tree.map(lambda g: g.reshape(-1, *g.shape[2:])[:anchors], of_own), of_shared)


def _backward(terms: Callable[..., Terms], size: int, gradients: Any, cotangents: Terms) -> Any:
    of_own, of_shared = jax.tree.map(lambda g: g * cotangents.value, gradients)
    return of_own, of_shared, None, None


_sum_over_blocks.defvjp(_forward, _backward)


def _only(tree: Any, floats: bool) -> Any:
    """A tree with None in place of the arrays that are not of floats, or of those that are."""
    return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.floating) == floats else None, tree)


def _cut(tree: Any, size: int) -> Any:
    """[B, ...] -> [blocks, size, ...]; rows that fill up the last block hold 0: an anchor that is not `real`."""

    def cut(x: Array) -> Array:
        blocks = -(-x.shape[0] // size)
        padding = [(0, blocks * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(blocks, size, *x.shape[1:])

    return jax.tree.map(cut, tree)
