"""Cross-batch memory: embeddings of earlier batches as further candidates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import arguments
from jaxml.losses.kernels import checks, sharding
from jaxml.losses.kernels.labels import bounds, fit

Array = jax.Array


class Memory(NamedTuple):
    """A ring of embeddings; a plain pytree, equal on all devices, saved like any other state."""

    embeddings: Array
    """float32 [size, D]"""
    labels: Array
    """int32 [size]"""
    next: Array
    """int32 []: the place written next."""
    filled: Array
    """bool [size]: which places hold an embedding; the `reference_mask` of a loss."""


def memory(size: int, width: int) -> Memory:
    """An empty memory of `size` embeddings of `width` dimensions.

    Source: Wang et al. 2020, Cross-Batch Memory for Embedding Learning, algorithm 1.

    Raises:
        ValueError: size or width is no whole number of at least 1.
    """
    size, width = arguments.whole("size", size), arguments.whole("width", width)
    embeddings, labels = jnp.zeros((size, width), jnp.float32), jnp.zeros(size, jnp.int32)
    return Memory(embeddings, labels, jnp.int32(0), jnp.zeros(size, bool))


def push(state: Memory, embeddings: Array, labels: Array, *, axis_name: str | None = None) -> Memory:
    """Write a batch over the oldest entries; no gradient passes through the memory.

    Args:
        state: from `memory`.
        embeddings: float [B, D].
        labels: int [B], such as an int32 can hold.
        axis_name: mapped axis the batch is divided over; all of it is stored, on every device.

    Returns:
        The new state. Of a batch larger than the memory, the last `size` entries are kept.

    Raises:
        ValueError: embeddings and labels do not fit each other or the memory. Traced labels are judged by their type.
    """
    x, y = checks.labelled(embeddings, labels)
    width = state.embeddings.shape[1]
    if x.shape[1] != width:
        raise ValueError(f"embeddings must be as wide as the memory ({width}), got {x.shape[1]}")
    known = y if isinstance(y, jax.core.Tracer) or fit(jnp.int32, *bounds(y)) else np.asarray(y)
    low, high = bounds(known)
    if not fit(jnp.int32, low, high):
        raise ValueError(
            f"labels must fit into the memory's int32, got {y.dtype} {low}..{high}; number the classes from 0, or "
            "convert labels that are small with astype('int32')"
        )
    return _write(state, x, jnp.asarray(y.astype(jnp.int32)), axis_name)


@partial(jax.jit, static_argnums=3)
def _write(state: Memory, x: Array, y: Array, axis_name: str | None) -> Memory:
    state, x, y = sharding.replicated((state, jax.lax.stop_gradient(x), y))
    if axis_name is not None:
        # By its type, too, what is gathered is the same on all devices, as shard_map asks of a replicated state.
        x, y = (jax.lax.all_gather(a, axis_name, tiled=True, to="invarying") for a in (x, y))
    size, pushed = state.labels.shape[0], x.shape[0]
    kept = min(size, pushed)
    places = (state.next + jnp.arange(pushed - kept, pushed, dtype=jnp.int32)) % size
    return Memory(
        state.embeddings.at[places].set(x[-kept:]),
        state.labels.at[places].set(y[-kept:]),
        (state.next + pushed) % size,
        state.filled.at[places].set(True),
    )


def cross_batch(
    loss: Callable[..., tuple[Array, dict[str, Array]]],
    embeddings: Array,
    labels: Array,
    state: Memory,
    *parameters: Any,
    weight: float | Array = 1.0,
    **options: Any,
) -> tuple[Array, dict[str, Array]]:
    """Loss of the batch plus `weight` times the same loss of the batch against the memory.

    L(batch, batch) + weight L(batch, memory); push the batch afterwards. Any loss that takes `references` and their
    `reference_mask` will do.

    Args:
        loss: a function of jaxml.losses that takes `references`.
        embeddings: float [B, D].
        labels: int [B].
        state: from `memory` and `push`.
        parameters: learnable parameters of the loss, if it has any.
        weight: at least 0.
        options: keyword arguments of the loss.

    Returns:
        float32 loss, and the dict of the loss within the batch, with the memory's under `memory_...`.

    Raises:
        ValueError: as the loss does, or a negative weight.

    Source: Wang et al. 2020, algorithm 1, whose memory also holds the current batch.
    """
    checks.number("weight", weight, minimum=0.0)
    own, aux = loss(embeddings, labels, *parameters, **options)
    against = {
        "references": jax.lax.stop_gradient(state.embeddings),
        "reference_labels": state.labels,
        "reference_mask": state.filled,
    }
    more, more_aux = loss(embeddings, labels, *parameters, **against, **options)
    return own + weight * more, {**aux, **{f"memory_{name}": value for name, value in more_aux.items()}}
