"""Lifted structured loss, as published and in its generalised form."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.distances import DISTANCES, largest, pairwise
from jaxml.losses import blocks, checks, rows

Array = jax.Array
Aux = dict[str, Array]


def lifted(
    embeddings: Array,
    labels: Array,
    *,
    margin: float | Array = 1.0,
    distance: str = "euclidean",
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Push every negative of both ends of a positive pair (i, j) beyond the margin.

    1/2 max(0, J_ij)^2 with J_ij = d_ij + log(sum_k e^{margin - d_ik} + sum_l e^{margin - d_jl}), k negatives of i,
    l negatives of j. With references, i and l are of the batch, j and k of the references.

    Reduction: mean over positive pairs that have a negative (each counted from both ends); 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B].
        margin: at least 0, in units of the distance.
        distance: euclidean, squared or cosine.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (above 0) and `valid` pairs.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Song et al. 2016, Deep Metric Learning via Lifted Structured Feature Embedding, equation 4. Its Caffe
    code leaves out the sum over l; some ports leave out the square.
    """
    x, y, r = checks.batch(embeddings, labels, references, reference_labels, reference_mask, axis_name)
    checks.number("margin", margin, minimum=0.0)
    checks.choice("distance", distance, DISTANCES)
    checks.block_size(block_size)
    return _lifted(x, y, r, margin, distance, block_size, axis_name)


@partial(jax.jit, static_argnums=(4, 5, 6))
def _lifted(
    x: Array,
    labels: Array,
    references: blocks.References | None,
    margin: Array,
    distance: str,
    block_size: int | None,
    axis_name: str | None,
) -> tuple[Array, Aux]:
    batch = blocks.batch(x, labels, references, axis_name)
    push = partial(_push, distance)
    of_anchors = blocks.map_rows(push, batch, margin, block_size=block_size)
    if references is None:
        of_found = blocks.gather(of_anchors, axis_name)
    else:
        anchors = blocks.vary(blocks.References(*blocks.gather((x, labels), axis_name)), axis_name)
        other_way = blocks.batch(batch.found, batch.candidates.labels, anchors, None)
        of_found = blocks.map_rows(push, other_way, margin, block_size=block_size)
    # Anchors' own sums are appended to the candidates', where every block of anchors finds its part.
    sums = jnp.concatenate([of_found, of_anchors])
    first = jnp.arange(x.shape[0], dtype=jnp.int32) + of_found.shape[0]
    bound = largest(batch.x, batch.found, distance)
    value, aux = blocks.sum_rows(
        partial(_pull, distance), batch, sums, bound=bound, block_size=block_size, extra=first
    )
    return blocks.ratio(value, aux["valid"]), aux


def _push(distance: str, x: Array, found: Array, margin: Any, block: blocks.Block) -> Array:
    """log sum_k e^{margin - d_ik} over negatives k."""
    return rows.log_sum_exp(margin - pairwise(x, found, distance), block.masks.negative)


def _pull(distance: str, x: Array, found: Array, sums: Any, block: blocks.Block) -> tuple[Array, Aux]:
    of_anchors = sums[block.extra][:, None]
    both = jnp.logaddexp(of_anchors, sums[: found.shape[0]][None, :])
    valid = block.masks.positive & (both > rows.NOTHING / 2)
    j = jnp.where(valid, pairwise(x, found, distance) + both, 0.0)
    active = j > 0
    value = 0.5 * jnp.sum(jnp.square(jnp.where(active, j, 0.0)))
    return value, {"active": blocks.count(active), "valid": blocks.count(valid)}


def generalized_lifted(
    embeddings: Array,
    labels: Array,
    *,
    margin: float | Array = 1.0,
    distance: str = "euclidean",
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Compare a soft maximum of an anchor's positive distances with a soft minimum of its negative ones.

    max(0, log sum_p e^{d_ap} + log sum_n e^{margin - d_an}).

    Reduction: mean over anchors that have a positive and a negative; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B].
        margin: at least 0, in units of the distance.
        distance: euclidean, squared or cosine.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (above 0) and `valid` anchors.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Hermans, Beyer & Leibe 2017, In Defense of the Triplet Loss, equation 7.
    """
    x, y, r = checks.batch(embeddings, labels, references, reference_labels, reference_mask, axis_name)
    checks.number("margin", margin, minimum=0.0)
    checks.choice("distance", distance, DISTANCES)
    checks.block_size(block_size)
    return _generalized_lifted(x, y, r, margin, distance, block_size, axis_name)


@partial(jax.jit, static_argnums=(4, 5, 6))
def _generalized_lifted(
    x: Array,
    labels: Array,
    references: blocks.References | None,
    margin: Array,
    distance: str,
    block_size: int | None,
    axis_name: str | None,
) -> tuple[Array, Aux]:
    batch = blocks.batch(x, labels, references, axis_name)
    function = partial(_generalized_rows, distance)
    bound = largest(batch.x, batch.found, distance)
    value, aux = blocks.sum_rows(function, batch, margin, bound=bound, block_size=block_size)
    return blocks.ratio(value, aux["valid"]), aux


def _generalized_rows(
    distance: str, x: Array, found: Array, margin: Any, block: blocks.Block
) -> tuple[Array, Aux]:
    d = pairwise(x, found, distance)
    positive, negative = block.masks
    valid = jnp.any(positive, axis=1) & jnp.any(negative, axis=1)
    value = rows.log_sum_exp(d, positive) + rows.log_sum_exp(margin - d, negative)
    active = valid & (value > 0)
    value = jnp.sum(jnp.where(active, value, 0.0))
    return value, {"active": blocks.count(active), "valid": blocks.count(valid)}
