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
from jaxml.losses.kernels.relations import Masks

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


def push(
    state: Memory,
    embeddings: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    axis_name: str | None = None,
) -> Memory:
    """Write a batch over the oldest entries; no gradient passes through the memory.

    Args:
        state: from `memory`.
        embeddings: float [B, D].
        labels: int [B], which an int32 can hold.
        mask: bool [B], which of them are stored; all if None.
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
    x, y, stored = _pushable(state, embeddings, labels, mask)
    return _write(state, x, y, stored, axis_name)[0]


def _pushable(
    state: Memory, embeddings: Array, labels: Array, mask: Array | None
) -> tuple[Array, Array, Array]:
    """What `push` is given, checked: float32 [B, D], int32 [B] and bool [B]."""
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
    stored = np.ones(len(x), bool) if mask is None else mask
    stored = checks.boolean("mask", stored, x.shape[:1], "one entry for each of the embeddings")
    return x, jnp.asarray(y.astype(jnp.int32)), stored


@partial(jax.jit, static_argnums=4)
def _write(state: Memory, x: Array, y: Array, mask: Array, axis_name: str | None) -> tuple[Memory, Array]:
    """`push` of float32 [B, D], int32 [B] and bool [B], in one compiled function; and where each image went, int32 [B].

    An image that is not stored goes to the place after the last.
    """
    state, x, y, mask = sharding.replicated((state, jax.lax.stop_gradient(x), y, mask))
    own = x.shape[0]
    if axis_name is not None:
        # The type, too, says that the result is the same on all devices, as shard_map requires of a replicated state.
        x, y, mask = (jax.lax.all_gather(a, axis_name, tiled=True, to="invarying") for a in (x, y, mask))
    size = state.labels.shape[0]
    number = jnp.cumsum(mask.astype(jnp.int32))
    kept = mask & (number > number[-1] - size)
    places = jnp.where(kept, (state.next + number - 1) % size, size)
    written = Memory(
        state.embeddings.at[places].set(x, mode="drop"),
        state.labels.at[places].set(y, mode="drop"),
        (state.next + number[-1]) % size,
        state.filled.at[places].set(True, mode="drop"),
    )
    if axis_name is not None:
        places = jax.lax.dynamic_slice_in_dim(places, jax.lax.axis_index(axis_name) * own, own)
    return written, places


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


def batch_and_memory(
    loss: Callable[..., tuple[Array, dict[str, Array]]],
    embeddings: Array,
    labels: Array,
    state: Memory,
    *,
    axis_name: str | None = None,
    **options: Any,
) -> tuple[Array, dict[str, Array]]:
    """One loss of the batch against itself and the memory, taken together; push the batch afterwards.

    L(batch, memory with the batch in it), in which no image is compared with itself; only anchors have a gradient.

    Args:
        loss: a function of jaxml.losses that takes `references`, and Masks in place of labels.
        embeddings: float [B, D].
        labels: int [B].
        state: from `memory` and `push`, of at least B embeddings.
        axis_name: mapped axis the batch is divided over.
        options: further keyword arguments of the loss.

    Returns:
        float32 loss, and the dict of the loss. The masks take B x `size` bytes each.

    Raises:
        ValueError: an argument that the loss or `push` refuses.

    Source: the cross-batch memory of pytorch-metric-learning, which puts the batch into the memory first.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> state = losses.push(losses.memory(size=9, width=2), embeddings, labels)
        >>> loss, aux = losses.batch_and_memory(losses.contrastive, embeddings, labels, state)
        >>> print(f"{loss:.3f}, {aux['valid']:.0f} pairs")
        0.135, 28 pairs
    """
    x, y, stored = _pushable(state, embeddings, labels, None)
    state, places = _write(state, x, y, stored, axis_name)
    others = state.filled[None, :] & (places[:, None] != jnp.arange(state.labels.shape[0])[None, :])
    same = y[:, None] == state.labels[None, :]
    masks = Masks(others & same, others & ~same)
    return loss(embeddings, masks, references=state.embeddings, axis_name=axis_name, **options)
