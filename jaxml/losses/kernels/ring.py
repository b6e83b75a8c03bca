"""Rows divided over devices that stand in a ring: each row is on one device, and all rows come past every device.

No device holds all rows at once, as it does after `devices.gather`. While a device computes with one part, the next
one is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxml.losses.kernels.devices import number_of_devices, zeros_like

Array = jax.Array


def from_next(tree: Any, axis_name: str) -> Any:
    """The arrays of the device after this one; the last one's are the first one's."""
    return _passed(tree, axis_name, 1)


def from_previous(tree: Any, axis_name: str) -> Any:
    """The arrays of the device before this one."""
    return _passed(tree, axis_name, -1)


def _passed(tree: Any, axis_name: str, by: int) -> Any:
    devices = number_of_devices(axis_name)
    pairs = [((place + by) % devices, place) for place in range(devices)]
    return jax.tree.map(partial(lax.ppermute, axis_name=axis_name, perm=pairs), tree)


def once_round(
    step: Callable[[Any, Any, Any], tuple[Any, Any]], carry: Any, part: Any, found: Any, axis_name: str
) -> Any:
    """Let the parts of all devices come past this one.

    Args:
        step: step(carry, part, found) -> (carry, found), with the parts one after the other, this device's first.
        carry: what stays here.
        part: arrays, this device's part, which do not change.
        found: arrays that travel with the part, to which every device adds.
        axis_name: mapped axis of the devices.

    Returns:
        The last `carry`, and `found` of this device's part.
    """

    def turn(_: Array, state: Any) -> Any:
        carry, part, found = state
        coming = from_next(part, axis_name)
        carry, found = step(carry, part, found)
        return carry, coming, from_next(found, axis_name)

    carry, _, found = lax.fori_loop(0, number_of_devices(axis_name), turn, (carry, part, found))
    return carry, found


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def rows_at(x: Array, places: Array, back: Array, axis_name: str) -> Array:
    """Rows of all devices in another order.

    Args:
        x: float32 [B, D], this device's rows.
        places: int32 [B], which rows of all devices this one is to hold.
        back: int32 [B], the places of this device's rows in the new order.
        axis_name: mapped axis of the devices.

    Returns:
        float32 [B, D].
    """
    count = x.shape[0]
    first = lax.axis_index(axis_name) * count

    def step(state: tuple[Array, Array], part: Array, found: tuple[()]) -> Any:
        rows, first = state
        index = places - first
        there = (index >= 0) & (index < count)
        rows = jnp.where(there[:, None], part[jnp.clip(index, 0, count - 1)], rows)
        return (rows, (first + count) % (count * number_of_devices(axis_name))), found

    (rows, _), _ = once_round(step, (zeros_like(x), first), x, (), axis_name)
    return rows


def _rows_at_forward(x: Array, places: Array, back: Array, axis_name: str) -> Any:
    return rows_at(x, places, back, axis_name), (places, back)


def _rows_at_backward(axis_name: str, places: Any, gradient: Array) -> Any:
    places, back = places
    return rows_at(gradient, back, places, axis_name), None, None


rows_at.defvjp(_rows_at_forward, _rows_at_backward)
