"""Histograms of matrices, with a gradient and without indices: a number between two nodes counts for both of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxml.losses.kernels.devices import zeros_like

Array = jax.Array


def shares(x: Array, where: Array, nodes: Array) -> Array:
    """Share the chosen entries of each row among the nodes next to them, by the distance from each.

    h_r = sum_j max(0, 1 - |x_j - t_r| / width), where the nodes t_r are `width` apart.

    One pass over the matrix for every node, and another one for the gradient; memory O(b M).

    Args:
        x: float32 [b, M], from the first node to the last.
        where: bool [b, M].
        nodes: float32 [R], at least two, evenly spaced; without gradient.

    Returns:
        float32 [b, R].
    """
    nodes = jax.lax.stop_gradient(nodes)
    width = (nodes[-1] - nodes[0]) / (len(nodes) - 1)

    @jax.checkpoint
    def at(node: Array) -> Array:
        share = jnp.maximum(1.0 - jnp.abs(x - node) / width, 0.0)
        return jnp.sum(jnp.where(where, share, 0.0), axis=1)

    return jax.lax.map(at, nodes).T


def sum_below(x: Array, nodes: Array, heights: Array) -> Array:
    """Sum of the heights of all nodes up to each entry of a matrix, by one pass over it for every node.

    Args:
        x: float32 [b, M].
        nodes: float32 [R].
        heights: float32 [R].

    Returns:
        float32 [b, M].
    """

    def step(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
        place, height = node
        return total + jnp.where(x >= place, height, 0.0), None

    return jax.lax.scan(step, zeros_like(x), (nodes, heights))[0]
