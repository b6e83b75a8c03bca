"""Triplet losses over all triplets of a batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.distances import DISTANCES, pairwise
from jaxml.losses import blocks, sweep

Array = jax.Array
FORMULAS = ("hinge",)
MINING = ("all",)


def triplet(
    embeddings: Array,
    labels: Array,
    *,
    formula: str = "hinge",
    mining: str = "all",
    margin: float | Array = 0.2,
    distance: str = "euclidean",
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Compare each anchor's positives with its negatives.

    hinge: max(0, d_ap - d_an + margin); mean over active triplets (those above 0), 0 if there is none.
    """
    x, y, r, ry = blocks.check_batch(embeddings, labels, references, reference_labels)
    blocks.check_choice("formula", formula, FORMULAS)
    blocks.check_choice("mining", mining, MINING)
    blocks.check_choice("distance", distance, DISTANCES)
    blocks.check_number("margin", margin)
    return _triplet(x, y, margin, r, ry, distance=distance, block_size=block_size, axis_name=axis_name)


@partial(jax.jit, static_argnames=("distance", "block_size", "axis_name"))
def _triplet(x, labels, margin, references, reference_labels, *, distance, block_size, axis_name):
    anchors, found = blocks.candidates(x, labels, references, reference_labels, axis_name)
    groups = sweep.groups(labels, found.labels)
    block = block_size or blocks.block_rows(x.shape[0], found.embeddings.shape[0])
    shared = blocks.spread((found.embeddings, jnp.asarray(margin, jnp.float32)), axis_name)
    fixed = (found.labels, found.ids, groups.order)
    facts = (anchors, groups.start, groups.count)
    value, aux = blocks.sum_over_blocks(partial(_rows, distance), block, x, shared, facts, fixed)
    active = blocks.total(aux["active"], axis_name)
    loss = blocks.total(value, axis_name) / jnp.maximum(active, 1.0)
    return loss, {"active": active, "valid": blocks.total(aux["valid"], axis_name)}


def _rows(distance: str, x: Array, shared: Any, facts: Any, fixed: Any) -> tuple[Array, dict[str, Array]]:
    (references, margin), (anchors, start, count), (labels, ids, order) = shared, facts, fixed
    real = (anchors.ids >= 0)[:, None]
    same = anchors.labels[:, None] == labels[None, :]
    positive = same & real & (anchors.ids[:, None] != ids[None, :])
    negative = ~same & real
    d = pairwise(x, references, distance)
    value, active = sweep.hinge(d, margin, positive, negative, sweep.Groups(order, start, count))
    pairs = jnp.sum(positive, axis=1).astype(jnp.float32) * jnp.sum(negative, axis=1).astype(jnp.float32)
    return value, {"active": active, "valid": jnp.sum(pairs)}
