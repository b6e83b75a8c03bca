"""One program on every device: the only file that names pmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxml import distributed

AXIS = "batch"
"""Name of the mapped axis that a batch is divided over."""


def parallel(
    function: Callable[..., Any],
    in_axes: tuple[int | None, ...],
    devices: Sequence[Any],
    out_axes: int | None = None,
) -> Callable[..., Any]:
    """`function` on every device at once: arguments with axis 0 are divided, the others are the same everywhere.

    `devices` are this process's; the others' take part with their own, and each divides its own arguments. The first
    argument's memory is reused for the result where the result is a state (`out_axes` None).
    """
    call = jax.pmap(
        lambda _, first, others: function(first, *others),
        axis_name=AXIS,
        # The others are one tree. As arguments of their own, pmap would take their axes for those of its leaves where
        # there happen to be as many leaves as arguments, which a tuple and a None among them make so.
        in_axes=(0, in_axes[0], in_axes[1:]),
        out_axes=out_axes,
        devices=distributed.everywhere(devices),
        donate_argnums=(1,) if out_axes is None else (),
    )
    # pmap learns the number of devices from a divided argument, and the resident steps have none.
    return partial(_call, call, np.arange(len(devices)))


def _call(call: Callable[..., Any], places: np.ndarray, first: Any, *others: Any) -> Any:
    return call(places, first, others)


def lower(call: Any, first: Any, *others: Any) -> jax.stages.Lowered:
    """What `parallel` returned, lowered for arguments whose divided ones are [devices, ...]; shapes are enough."""
    mapped, places = call.args
    return mapped.lower(places, first, others)


def replicate(tree: Any, devices: Sequence[Any]) -> Any:
    """A tree of arrays with one copy on each device."""
    mesh = jax.sharding.Mesh(devices, (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def divide(array: np.ndarray, devices: Sequence[Any]) -> jax.Array:
    """An array [n, ...] as [devices, n / devices, ...], each part on its device."""
    mesh = jax.sharding.Mesh(devices, (AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    return jax.device_put(array.reshape(len(devices), -1, *array.shape[1:]), sharding)
