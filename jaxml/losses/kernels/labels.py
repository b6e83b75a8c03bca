"""Labels of any integer type as int32, which is what losses compare; nothing here rounds or wraps around.

Labels on the host (NumPy arrays, lists) are judged by their values, labels on a device by their type alone, so that no
loss waits for the device.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxml.losses.kernels import sharding
from jaxml.losses.kernels.devices import gather

Array = jax.Array


class WeightedLabels(NamedTuple):
    """Labels and the weights of their classes: what `losses.weighted` gives a loss in place of labels."""

    labels: Array
    """int32 [B], class indices; -1 for those out of range."""
    class_weights: Array
    """float32 [classes]"""


def keys(sets: list[Any], axis_name: str | None) -> list[Array]:
    """One or two sets of labels as int32, equal exactly where the labels are equal, on all devices alike.

    Args:
        sets: int [B] and, where given, int [M] of the references, as arrays of the host or of a device.
        axis_name: mapped axis that the first set is divided over; the second is equal on all devices.

    Returns:
        int32 [B] and, where given, int32 [M].
    """
    low, high = zip(*map(bounds, sets), strict=True)
    if fit(jnp.int32, min(low), max(high)):
        return [jnp.asarray(s.astype(jnp.int32)) for s in sets]
    if fit(jnp.uint32, min(low), max(high)):
        return [jax.lax.bitcast_convert_type(s.astype(jnp.uint32), jnp.int32) for s in sets]
    return _ranks([_words(s) for s in sets], axis_name)


def class_indices(name: str, classes: int, labels: Any) -> Array:
    """Labels int [B] that pick a row of the parameter `name`, as int32 [B] in 0..classes-1.

    Traced labels cannot be refused: -1, which is no class, stands for those out of range.

    Raises:
        ValueError: labels out of range.
    """
    if isinstance(labels, jax.core.Tracer):
        if fit(jnp.int32, *bounds(labels)):
            labels = labels.astype(jnp.int32)  # the number of classes may not fit into int8
        inside = (labels >= 0) & (labels < classes)
        return jnp.where(inside, labels.astype(jnp.int32), -1)
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    low, high = bounds(np.asarray(labels))
    if low < 0 or high >= classes:
        raise ValueError(f"labels must be in 0..{classes - 1}, the classes of {name}, got {low}..{high}")
    return jnp.asarray(labels.astype(jnp.int32))


def of_classes(values: Array, classes: Array) -> Array:
    """The value of each image's class, float32 [b] from [classes] and int32 [b]; NaN for a class that has none."""
    return values.at[classes].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def bounds(labels: Any) -> tuple[int, int]:
    """Least and greatest label of int [B]: of the values on the host, of the type on a device."""
    if isinstance(labels, jax.Array):
        info = jnp.iinfo(labels.dtype)
        return int(info.min), int(info.max)
    return int(labels.min()), int(labels.max())


def fit(dtype: Any, low: int, high: int) -> bool:
    """Whether a type holds all integers from low to high."""
    info = jnp.iinfo(dtype)
    return bool(info.min <= low and high <= info.max)


def _words(labels: Any) -> Any:
    """Sign, upper and lower half of each label, int [N] -> uint32 [N, 3], by which any two integer types compare."""
    xp: Any = jnp if isinstance(labels, jax.Array) else np
    negative = labels < 0
    if labels.dtype.itemsize == 8:
        upper = (labels >> 32).astype(jnp.uint32)
    else:
        upper = xp.where(negative, xp.uint32(2**32 - 1), xp.uint32(0))
    return xp.stack([negative.astype(jnp.uint32), upper, labels.astype(jnp.uint32)], axis=1)


@partial(jax.jit, static_argnums=1)
def _ranks(sets: list[Array], axis_name: str | None) -> list[Array]:
    """Places of labels among all different labels in sorted order, over all sets and devices.

    uint32 [N, 3] of each set, from `_words`, -> int32 [N].
    """
    own, *others = sharding.replicated(sets)
    everywhere = [gather(own, axis_name), *others]
    rows = jnp.concatenate(everywhere)
    _, ranks = jnp.unique(rows, axis=0, return_inverse=True, size=rows.shape[0])
    ends = np.cumsum([len(s) for s in everywhere]).tolist()
    first, *more = (r.astype(jnp.int32) for r in jnp.split(ranks, ends[:-1]))
    if axis_name is not None:
        start = jax.lax.axis_index(axis_name) * own.shape[0]
        first = jax.lax.dynamic_slice_in_dim(first, start, own.shape[0])
    return [first, *more]
