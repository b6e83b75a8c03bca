"""Runs a loss on the devices that its batch is divided over, where the shardings of its arguments are explicit.

Axes made by `jax.make_mesh` are Explicit: the type of an array says how they divide it. Sorting or indexing such an
array is an error, and collectives cannot name such an axis. `jax.shard_map` over these axes makes both possible.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

AxisName = str | tuple[str, ...] | None


def divided(count: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let every device call a function with its own rows, and the name of the axes that divide them.

    The function takes arrays by position and all else by name, `axis_name` included; it must be called under jax.jit.
    If no argument has an Explicit axis, the function is called as it is.

    Args:
        count: how many arguments have a row per image; the first one says which axes divide them. The others are made
            equal on all devices, as results must be.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def on_own_rows(*arrays: Any, axis_name: AxisName, **static: Any) -> Any:
            mesh = _explicit_mesh(arrays)
            if mesh is None:
                return function(*arrays, axis_name=axis_name, **static)
            axes = _axes_of_rows(arrays[0])
            specs = tuple(P(axes) if i < count else P() for i in range(len(arrays)))
            # Several axes count as one, along which devices are numbered in the order of their rows.
            names = (*_names(axis_name), *axes)
            mapped = jax.shard_map(
                partial(function, axis_name=names[0] if len(names) == 1 else names or None, **static),
                mesh=mesh,
                in_specs=specs,
                out_specs=P(),
                axis_names={n for n in mesh.axis_names if n not in mesh.manual_axes},
            )
            return mapped(*(_put(a, mesh, spec) for a, spec in zip(arrays, specs, strict=True)))

        return on_own_rows

    return decorate


def replicated(tree: Any) -> Any:
    """Make arrays equal on all devices of the Explicit mesh that holds them; must be called under jax.jit."""
    mesh = _explicit_mesh(tree)
    return tree if mesh is None else _put(tree, mesh, P())


def _explicit_mesh(tree: Any) -> AbstractMesh | None:
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            mesh = jax.typeof(leaf).sharding.mesh
            if AxisType.Explicit in mesh.axis_types:
                return mesh
    return None


def _axes_of_rows(x: Any) -> tuple[str, ...]:
    """Axes that divide the first axis of an array [B, ...]."""
    return _names(jax.typeof(x).sharding.spec[0]) if x.ndim else ()


def _names(axis_name: AxisName) -> tuple[str, ...]:
    if axis_name is None:
        return ()
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def _put(tree: Any, mesh: AbstractMesh, spec: P) -> Any:
    return jax.tree.map(lambda x: jax.reshard(x, NamedSharding(mesh, spec)), tree)
