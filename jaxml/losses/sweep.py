"""All triplets of a block of anchors in one sweep over the block's positives, never a cube."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Groups(NamedTuple):
    """Candidates in the order of their labels: the positives of an anchor lie side by side."""

    order: Array
    """int32 [M]: candidates, sorted by label."""
    start: Array
    """int32 [b]: where the anchor's label begins in `order`."""
    count: Array
    """int32 [b]: candidates with the anchor's label, the anchor itself included."""


def groups(labels: Array, candidate_labels: Array) -> Groups:
    """Find each anchor's positives by sorting."""
    order = jnp.argsort(candidate_labels).astype(jnp.int32)
    ordered = candidate_labels[order]
    start = jnp.searchsorted(ordered, labels, side="left").astype(jnp.int32)
    end = jnp.searchsorted(ordered, labels, side="right").astype(jnp.int32)
    return Groups(order, start, end - start)


@jax.custom_vjp
def hinge(
    distances: Array, margin: Array, positive: Array, negative: Array, found: Groups
) -> tuple[Array, Array]:
    """Sum and number of max(0, d_ap - d_an + margin) > 0 over all triplets of a block, [b, M] -> two scalars."""
    (value, count), _ = _hinge_forward(distances, margin, positive, negative, found)
    return value, count


def _hinge_forward(distances: Array, margin: Array, positive: Array, negative: Array, found: Groups):
    rows = jnp.arange(distances.shape[0])
    far = jnp.where(negative, distances, jnp.inf)

    def step(carry):
        k, value, active, gradient = carry
        column = found.order[jnp.minimum(found.start + k, found.order.shape[0] - 1)]
        use = (k < found.count) & positive[rows, column]
        limit = jnp.where(use, distances[rows, column] + margin, -jnp.inf)[:, None]
        mask = far < limit
        n = jnp.sum(mask, axis=1, dtype=jnp.int32).astype(jnp.float32)
        value = value + jnp.where(mask, limit - far, 0.0)
        gradient = gradient - mask.astype(jnp.float32)
        gradient = gradient.at[rows, column].add(jnp.where(use, n, 0.0))
        return k + 1, value, active + jnp.sum(n), gradient

    zero = 0.0 * distances
    carry = (jnp.int32(0), zero, jnp.sum(zero), zero)
    last = jnp.max(found.count)
    _, value, active, gradient = jax.lax.while_loop(lambda c: c[0] < last, step, carry)
    return (jnp.sum(value), active), gradient


def _hinge_backward(gradient, cotangents):
    return gradient * cotangents[0], None, None, None, None


hinge.defvjp(_hinge_forward, _hinge_backward)
