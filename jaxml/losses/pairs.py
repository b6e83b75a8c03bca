"""Losses over the pairs of a batch: each anchor's row of distances or similarities."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.distances import pairwise
from jaxml.losses import blocks

Array = jax.Array
Aux = dict[str, Array]


def multi_similarity(
    embeddings: Array,
    labels: Array,
    *,
    alpha: float | Array = 2.0,
    beta: float | Array = 50.0,
    base: float | Array = 0.5,
    epsilon: float | Array = 0.1,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
) -> tuple[Array, Aux]:
    """Weigh each pair by its own and by its neighbours' cosine similarity, over the pairs that are hard.

    1/alpha log(1 + sum_p e^{-alpha (s_ap - base)}) + 1/beta log(1 + sum_n e^{beta (s_an - base)}), over
    positives with s_ap < max_n s_an + epsilon and negatives with s_an > min_p s_ap - epsilon.
    Mean over all anchors.
    """
    x, y, r, ry = blocks.check_batch(embeddings, labels, references, reference_labels)
    for name, value in (("alpha", alpha), ("beta", beta)):
        blocks.check_number(name, value, positive=True)
    blocks.check_number("epsilon", epsilon)
    return _multi_similarity(
        x, y, (alpha, beta, base, epsilon), r, ry, block_size=block_size, axis_name=axis_name
    )


@partial(jax.jit, static_argnames=("block_size", "axis_name"))
def _multi_similarity(x, labels, options, references, reference_labels, *, block_size, axis_name):
    value, aux = blocks.sum_rows(
        _multi_similarity_rows, x, labels, options, references, reference_labels, block_size, axis_name
    )
    return value / jnp.maximum(aux.pop("anchors"), 1.0), aux


def _multi_similarity_rows(x: Array, references: Array, options: Any, m: blocks.Masks) -> tuple[Array, Aux]:
    alpha, beta, base, epsilon = options
    s = 1.0 - pairwise(x, references, "cosine")
    nearest = jnp.max(s, axis=1, where=m.negative, initial=-jnp.inf, keepdims=True)
    farthest = jnp.min(s, axis=1, where=m.positive, initial=jnp.inf, keepdims=True)
    positive = m.positive & (s - epsilon < nearest)
    negative = m.negative & (s + epsilon > farthest)
    value = (
        blocks.log1p_sum_exp(-alpha * (s - base), positive) / alpha
        + blocks.log1p_sum_exp(beta * (s - base), negative) / beta
    )
    active = jnp.sum(positive) + jnp.sum(negative)
    valid = jnp.sum(m.positive) + jnp.sum(m.negative)
    return jnp.sum(value), {
        "active": active.astype(jnp.float32),
        "valid": valid.astype(jnp.float32),
        "anchors": jnp.sum(jnp.any(m.positive | m.negative, axis=1)).astype(jnp.float32),
    }
