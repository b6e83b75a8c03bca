"""Collectives over the devices that a batch is divided over; each does nothing where there is one device only."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def gather(tree: Any, axis_name: str | None) -> Any:
    """Join the parts of all devices along the first axis, [B, ...] -> [devices x B, ...]."""
    if axis_name is None:
        return tree
    return jax.tree.map(partial(jax.lax.all_gather, axis_name=axis_name, tiled=True), tree)


def over_devices(x: Array, axis_name: str | None) -> Array:
    """Sum over devices; an array of any shape."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def log_sum_exp_over_devices(x: Array, axis_name: str) -> Array:
    """log(sum over devices of e^x), elementwise, without overflow; an array of any shape."""
    top = jax.lax.pmax(jax.lax.stop_gradient(x), axis_name)
    return top + jnp.log(over_devices(jnp.exp(x - top), axis_name))


def number_of_devices(axis_name: str | None) -> int:
    """Devices that the batch is divided over."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def vary(tree: Any, axis_name: str | None) -> Any:
    """Mark arrays, which are equal on all devices, as device-varying, as shard_map requires of what meets shards."""
    if axis_name is None:
        return tree
    # Adding a device-dependent zero works in every jax version, and inside pmap.
    zero = 0 * jax.lax.axis_index(axis_name)
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def own_part(tree: Any, axis_name: str | None) -> Any:
    """Arrays of which each device holds another part; their gradient is whole on each device, not to be averaged.

    In pmap, and in shard_map without check_vma, the gradient of a sum over devices is too large by their number, which
    the mean over devices sets right for what they hold alike; here it is set right for what they do not.
    """
    return tree


def _own_part_forward(tree: Any, axis_name: str | None) -> Any:
    return tree, None


def _own_part_backward(axis_name: str | None, _: None, gradients: Any) -> Any:
    # The factor, 1 or the number of devices, as jax itself has it in this transformation.
    too_large = jax.grad(partial(over_devices, axis_name=axis_name))(vary(jnp.float32(1.0), axis_name))
    return (jax.tree.map(lambda g: g / too_large, gradients),)


own_part.defvjp(_own_part_forward, _own_part_backward)


def zeros_like(x: Array) -> Array:
    """Zeros in the shape of x that vary over devices as x does, so that they can start a loop that adds to them."""
    zero = jnp.zeros((), x.dtype)  # whatever the type of a plain 0.0 is, under jax_enable_x64
    return jnp.where(x > 0, zero, zero)
