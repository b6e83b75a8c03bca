"""What every loss shares: checking its arguments, gathering the global batch, walking blocks of anchors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Aux = dict[str, Array]


class Candidates(NamedTuple):
    """What anchors are compared with: the own batch, the gathered batch, or a set given by the caller."""

    embeddings: Array
    """float32 [M, D]"""
    labels: Array
    """int [M]"""
    ids: Array
    """int32 [M]: place in the global batch, so that an anchor is not its own positive; -1 if not in it."""


class Anchors(NamedTuple):
    """Integer facts about a block of anchors."""

    labels: Array
    """int [b]"""
    ids: Array
    """int32 [b]: place in the global batch; -2 for rows that only fill up a block."""


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise a ValueError that lists the allowed values."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def check_number(name: str, value: Any, *, positive: bool = False) -> None:
    """Raise a ValueError for a negative (or, if `positive`, zero) number; traced values pass."""
    if isinstance(value, jax.core.Tracer):
        return
    if np.ndim(value) != 0 or not np.isfinite(value) or value < 0 or (positive and value == 0):
        wanted = "a number above 0" if positive else "a number of 0 or more"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def check_set(embeddings: Any, labels: Any, prefix: str = "") -> tuple[Array, Array]:
    """Check one set of embeddings and labels; return them as float32 [B, D] and int [B]."""
    name, label_name = (prefix, f"{prefix[:-1]}_labels") if prefix else ("embeddings", "labels")
    shape, label_shape = np.shape(embeddings), np.shape(labels)
    if len(shape) != 2 or not jnp.issubdtype(jnp.result_type(embeddings), jnp.floating):
        raise ValueError(f"{name} must be a float array [B, D], got {jnp.result_type(embeddings)} {shape}")
    if len(label_shape) != 1 or not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(
            f"{label_name} must be an integer array [B], got {jnp.result_type(labels)} {label_shape}"
        )
    if shape[0] != label_shape[0]:
        raise ValueError(
            f"{label_name} must have one entry per row of {name}: got {label_shape[0]} for {shape[0]} rows"
        )
    return jnp.asarray(embeddings, jnp.float32), jnp.asarray(labels)


def check_batch(
    embeddings: Any, labels: Any, references: Any, reference_labels: Any
) -> tuple[Array, Array, Array | None, Array | None]:
    """Check the batch and, if given, the set it is compared with."""
    x, y = check_set(embeddings, labels)
    if (references is None) != (reference_labels is None):
        raise ValueError("references and reference_labels must be given together")
    if references is None:
        return x, y, None, None
    r, ry = check_set(references, reference_labels, "references")
    if r.shape[1] != x.shape[1]:
        raise ValueError(f"references must be as wide as embeddings: got {r.shape[1]} and {x.shape[1]}")
    return x, y, r, ry


def candidates(
    embeddings: Array,
    labels: Array,
    references: Array | None,
    reference_labels: Array | None,
    axis_name: str | None,
) -> tuple[Anchors, Candidates]:
    """Name the anchors of this device, and what they are compared with."""
    ids = jnp.arange(embeddings.shape[0], dtype=jnp.int32)
    if axis_name is not None:
        ids = ids + jax.lax.axis_index(axis_name) * embeddings.shape[0]
    anchors = Anchors(labels, ids)
    if references is not None:
        assert reference_labels is not None
        return anchors, Candidates(references, reference_labels, jnp.full(references.shape[0], -1, jnp.int32))
    if axis_name is None:
        return anchors, Candidates(embeddings, labels, ids)
    gather = partial(jax.lax.all_gather, axis_name=axis_name, tiled=True)
    return anchors, Candidates(gather(embeddings), gather(labels), gather(ids))


class Masks(NamedTuple):
    """Which candidates of a block's anchors are positives, which are negatives."""

    positive: Array
    """bool [b, M]"""
    negative: Array
    """bool [b, M]"""


def masks(anchors: Anchors, found: Candidates) -> Masks:
    """Same label and not the anchor itself; another label; neither for rows that only fill up a block."""
    real = (anchors.ids >= 0)[:, None]
    same = anchors.labels[:, None] == found.labels[None, :]
    return Masks(same & real & (anchors.ids[:, None] != found.ids[None, :]), ~same & real)


def total(x: Array, axis_name: str | None) -> Array:
    """Sum over devices."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def spread(tree: Any, axis_name: str | None) -> Any:
    """Mark arrays that are equal on all devices as device-dependent, which shard_map asks of what meets shards."""

    if axis_name is None:
        return tree
    # Adding a device-dependent zero works in every jax version, inside pmap as well.
    zero = 0 * jax.lax.axis_index(axis_name)
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)


def mean(value: Array, count: Array, axis_name: str | None) -> Array:
    """Sum of values over all devices by sum of counts; 0 where nothing counts."""
    return total(value, axis_name) / jnp.maximum(total(count, axis_name), 1.0)


def block_rows(anchors: int, candidates: int) -> int:
    """Rows of a block such that one block x candidates matrix takes about 1 MiB on CPU, 64 MiB elsewhere."""
    entries = 2**18 if jax.default_backend() == "cpu" else 2**24
    return max(1, min(anchors, max(8, entries // max(candidates, 1))))


RowFunction = Callable[..., tuple[Array, Aux]]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_over_blocks(
    rows: RowFunction, block: int, x: Array, shared: Any, anchors: Anchors, fixed: Any
) -> tuple[Array, Aux]:
    """Sum rows(x, shared, anchors, fixed) -> (value, aux) over blocks of anchors.

    The gradient with respect to x and shared is taken in the same pass, block by block, so memory stays
    O(block x candidates) forward and backward.

    Args:
        rows: function of one block; sums over its anchors.
        block: anchors in a block.
        x: float [B, D], cut into blocks.
        shared: float arrays with gradient, the same for each block.
        anchors: integer arrays [B], cut into blocks.
        fixed: arrays without gradient, the same for each block.
    """
    return _walk(lambda *args: rows(*args, fixed), block, x, shared, anchors)


def _forward(
    rows: RowFunction, block: int, x: Array, shared: Any, anchors: Anchors, fixed: Any
) -> tuple[tuple[Array, Aux], Any]:
    def value_and_gradients(x: Array, shared: Any, anchors: Anchors) -> Any:
        value, pullback, aux = jax.vjp(lambda x, s: rows(x, s, anchors, fixed), x, shared, has_aux=True)
        # The one in the value's own type also carries its device variance under shard_map.
        return (value, aux), pullback(jnp.ones_like(value))

    out, gradients = _walk_gradients(value_and_gradients, block, x, shared, anchors)
    return out, gradients


def _backward(rows: RowFunction, block: int, gradients: Any, cotangents: Any) -> Any:
    scale = cotangents[0]
    x, shared = jax.tree.map(lambda g: g * scale, gradients)
    return x, shared, None, None


sum_over_blocks.defvjp(_forward, _backward)


def _cut(tree: Any, block: int) -> Any:
    """[B, ...] -> [blocks, block, ...]; rows that fill up the last block hold 0, and -2 where integer."""

    def cut(x: Array) -> Array:
        blocks = -(-x.shape[0] // block)
        padding = [(0, blocks * block - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
        fill = -2 if jnp.issubdtype(x.dtype, jnp.signedinteger) else 0
        return jnp.pad(x, padding, constant_values=fill).reshape(blocks, block, *x.shape[1:])

    return jax.tree.map(cut, tree)


def _walk(rows: Any, block: int, x: Array, shared: Any, anchors: Anchors) -> Any:
    if x.shape[0] <= block:
        return rows(x, shared, anchors)
    blocks = _cut((x, anchors), block)
    sums = jax.lax.map(lambda b: rows(b[0], shared, b[1]), blocks)
    return jax.tree.map(lambda s: jnp.sum(s, axis=0), sums)


def _walk_gradients(value_and_gradients: Any, block: int, x: Array, shared: Any, anchors: Anchors) -> Any:
    if x.shape[0] <= block:
        return value_and_gradients(x, shared, anchors)

    def step(carry: Any, blocks: Any) -> Any:
        out, (of_x, of_shared) = value_and_gradients(blocks[0], shared, blocks[1])
        return jax.tree.map(jnp.add, carry, of_shared), (out, of_x)

    # Zeros made from the data, so that under shard_map they vary over devices as the sums do.
    zeros = jax.tree.map(lambda s: jnp.zeros_like(s) + 0 * x[0, 0], shared)
    blocks = _cut((x, anchors), block)
    of_shared, (sums, of_x) = jax.lax.scan(step, zeros, blocks)
    of_x = of_x.reshape(-1, *x.shape[1:])[: x.shape[0]]
    return jax.tree.map(lambda s: jnp.sum(s, axis=0), sums), (of_x, of_shared)


def sum_rows(
    rows: Callable[[Array, Array, Any, Masks], tuple[Array, Aux]],
    x: Array,
    labels: Array,
    options: Any,
    references: Array | None,
    reference_labels: Array | None,
    block_size: int | None,
    axis_name: str | None,
) -> tuple[Array, Aux]:
    """Sum rows(x, candidates, options, masks) -> (value, aux) over the anchors of all devices."""
    anchors, found = candidates(x, labels, references, reference_labels, axis_name)
    options = jax.tree.map(lambda o: jnp.asarray(o, jnp.float32), options)
    shared, fixed = spread(((found.embeddings, options), found), axis_name)
    block = block_size or block_rows(x.shape[0], found.embeddings.shape[0])
    value, aux = sum_over_blocks(_Rows(rows), block, x, shared, anchors, fixed)
    return jax.tree.map(partial(total, axis_name=axis_name), (value, aux))


class _Rows(NamedTuple):
    rows: Callable[[Array, Array, Any, Masks], tuple[Array, Aux]]

    def __call__(self, x: Array, shared: Any, anchors: Anchors, found: Candidates) -> tuple[Array, Aux]:
        return self.rows(x, *shared, masks(anchors, found))


def log1p_sum_exp(x: Array, where: Array) -> Array:
    """log(1 + sum of e^x over the chosen entries) of each row, [b, M] -> [b], without overflow."""
    top = jax.lax.stop_gradient(jnp.max(x, axis=1, where=where, initial=0.0))
    # The unchosen are replaced before the exponential: its gradient would be infinity times zero.
    e = jnp.where(where, jnp.exp(jnp.where(where, x - top[:, None], 0.0)), 0.0)
    return top + jnp.log(jnp.exp(-top) + jnp.sum(e, axis=1))
