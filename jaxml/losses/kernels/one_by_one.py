"""The positives of a block of anchors one after the other, for terms of a positive and all negatives of its anchor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.losses.kernels.blocks import Block, Terms
from jaxml.losses.kernels.devices import zeros_like
from jaxml.losses.kernels.reductions import count
from jaxml.losses.kernels.relations import column_of_positive

Array = jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def sum_over_positives(function: Callable[..., Array], arrays: Any, block: Block) -> Terms:
    """Sum function(here, block, *arrays) over the positives of the anchors, of each the next one in every turn.

    Value and gradient are computed in the same loop, in O(b M) memory. The positive is given as a mask, for products
    with it and sums over it have gradients that accelerators compute faster than those of looking it up.

    Args:
        function: takes the one positive of each anchor, bool [b, M], and gives its terms, float32 [b]; hashable. The
            rows of anchors that have no further positive are false throughout, and their terms are left out.
        arrays: a tuple of float arrays with gradient.
        block: the block of anchors, without gradient.

    Returns:
        The sums; all positives are valid and active.
    """
    return _forward(function, arrays, block)[0]


def _forward(function: Callable[..., Array], arrays: Any, block: Block) -> tuple[Terms, Any]:
    places = jnp.arange(block.positive.shape[1], dtype=jnp.int32)[None, :]

    def step(carry: Any) -> Any:
        k, value, number, gradients = carry
        column, exists = column_of_positive(k, block.anchor_facts, block.candidate_facts)
        here = block.positive & exists[:, None] & (places == column[:, None])
        chosen = jnp.any(here, axis=1)

        def total(arrays: Any) -> Array:
            return jnp.sum(jnp.where(chosen, function(here, block, *arrays), 0.0))

        more, of_arrays = jax.value_and_grad(total)(arrays)
        return k + 1, value + more, number + count(chosen), jax.tree.map(jnp.add, gradients, of_arrays)

    zero = zeros_like(block.x[0, 0])
    start = jnp.int32(0), zero, zero, jax.tree.map(zeros_like, arrays)
    last = jnp.max(block.anchor_facts.size)
    _, value, number, gradients = jax.lax.while_loop(lambda carry: carry[0] < last, step, start)
    return Terms(value, number, number), gradients


def _backward(function: Callable[..., Array], gradients: Any, cotangents: Terms) -> Any:
    return jax.tree.map(lambda g: g * cotangents.value, gradients), None


sum_over_positives.defvjp(_forward, _backward)
