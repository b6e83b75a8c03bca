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
    """Create an empty memory of `size` embeddings of `width` dimensions.

    Args:
        size: number of embeddings that it holds, of several batches.
        width: D, their dimensions.

    Returns:
        A state for `push` and `cross_batch`.

    Raises:
        ValueError: size or width is no whole number of at least 1.

    Source: Wang et al. 2020, Cross-Batch Memory for Embedding Learning, algorithm 1.

    Example:
        >>> from jaxml import losses
        >>> losses.memory(size=1000, width=64).embeddings.shape
        (1000, 64)
    """
    size, width = arguments.whole("size", size), arguments.whole("width", width)
    embeddings, labels = jnp.zeros((size, width), jnp.float32), jnp.zeros(size, jnp.int32)
    return Memory(embeddings, labels, jnp.int32(0), jnp.zeros(size, bool))


def push(state: Memory, embeddings: Array, labels: Array, *, axis_name: str | None = None) -> Memory:
    """Write a batch over the oldest entries; no gradient passes through the memory.

    Args:
        state: from `memory`.
        embeddings: float [B, D].
        labels: int [B], which an int32 can hold.
        axis_name: mapped axis the batch is divided over; all of it is stored, on every device.

    Returns:
        The new state. Of a batch larger than the memory, the last `size` entries are kept.

    Raises:
        ValueError: embeddings and labels do not fit each other or the memory. Traced labels are judged by their type.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> state = losses.push(losses.memory(size=6, width=2), embeddings, labels)
        >>> state.filled.tolist()
        [True, True, True, True, False, False]
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
    """`push` of float32 [B, D] and int32 [B], in one compiled function."""
    state, x, y = sharding.replicated((state, jax.lax.stop_gradient(x), y))
    if axis_name is not None:
        # The type, too, says that the result is the same on all devices, as shard_map requires of a replicated state.
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

    L(batch, batch) + weight L(batch, memory); push the batch afterwards.

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
        ValueError: an argument that the loss refuses, or a negative weight.

    Source: Wang et al. 2020, algorithm 1, whose memory also holds the current batch.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> state = losses.push(losses.memory(size=6, width=2), embeddings, labels)
        >>> loss, aux = losses.cross_batch(losses.contrastive, embeddings, labels, state, weight=0.5)
        >>> print(f"{loss:.3f}, {aux['valid']:.0f} pairs in the batch and {aux['memory_valid']:.0f} with the memory")
        0.252, 12 pairs in the batch and 16 with the memory
    """
    checks.number("weight", weight, minimum=0.0)
    own, aux = loss(embeddings, labels, *parameters, **options)
    against = {
        "references": jax.lax.stop_gradient(state.embeddings),
        "reference_labels": state.labels,
        "reference_mask": state.filled,
    }
    more, more_aux = loss(embeddings, labels, *parameters, **against, **options)
    return own + jnp.float32(weight) * more, {
        **aux,
        **{f"memory_{name}": value for name, value in more_aux.items()},
    }
