"""Positives and negatives by label: facts about anchors and candidates, masks, and positives one after the other."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxml.losses.kernels.reductions import number, row_counts

Array = jax.Array


class Anchors(NamedTuple):
    """Facts about anchors; apart from `Candidates`, because anchors are cut into blocks and candidates are not."""

    labels: Array
    """int32 [b]"""
    ids: Array
    """int32 [b]: place in the global batch."""
    real: Array
    """bool [b]: false for rows that only fill up a block."""
    start: Array
    """int32 [b]: where the anchor's label begins in `Candidates.order`."""
    size: Array
    """int32 [b]: candidates with the anchor's label, the anchor itself included if it is one."""


class Candidates(NamedTuple):
    """Facts about the images that the anchors are compared with."""

    labels: Array
    """int32 [M]"""
    ids: Array | None
    """int32 [M]: place in the global batch, so that no anchor is its own positive; None for references."""
    mask: Array | None
    """bool [M]: which candidates are there, as in a memory that is not full; None if all are."""
    order: Array
    """int32 [M]: candidates sorted by label, so that the positives of an anchor lie side by side."""


class Masks(NamedTuple):
    """Which candidates are an anchor's positives, and which its negatives."""

    positive: Array
    """bool [b, M]"""
    negative: Array
    """bool [b, M]"""


def facts(
    labels: Array,
    ids: Array,
    candidate_labels: Array,
    candidate_ids: Array | None,
    mask: Array | None = None,
) -> tuple[Anchors, Candidates]:
    """Find each anchor's positives by sorting the candidates' labels; no class size need be known.

    Args:
        labels: int32 [B], of the anchors.
        ids: int32 [B], their places in the global batch.
        candidate_labels: int32 [M].
        candidate_ids: int32 [M]; None for references.
        mask: bool [M], which candidates are there; all if None.
    """
    sorted_by = candidate_labels
    if mask is None:
        order = jnp.argsort(sorted_by).astype(jnp.int32)
    else:
        # Candidates that are not there come last of all.
        sorted_by = jnp.where(mask, sorted_by, jnp.iinfo(jnp.int32).max)
        order = jnp.lexsort((~mask, sorted_by)).astype(jnp.int32)
    if labels.shape[0] * order.shape[0] <= 2**18:
        # Comparing all with all is one step; bisection is a loop, which pays for large batches only.
        own = labels[:, None]
        table = jnp.broadcast_to(sorted_by[None, :], (labels.shape[0], order.shape[0]))
        start, size = row_counts(table, [lambda other: other < own, lambda other: other == own]).T
    else:
        start, end = (
            jnp.searchsorted(sorted_by[order], labels, side=side).astype(jnp.int32)
            for side in ("left", "right")
        )
        size = end - start
    if mask is not None:
        size = jnp.minimum(size, number(mask) - start)
    real = jnp.ones(labels.shape, bool)
    return Anchors(labels, ids, real, start, size), Candidates(candidate_labels, candidate_ids, mask, order)


def masks(anchors: Anchors, candidates: Candidates) -> Masks:
    """Positives have the anchor's label and are not the anchor; negatives have another label. Two bool [b, M]."""
    real = anchors.real[:, None]
    same = anchors.labels[:, None] == candidates.labels[None, :]
    if candidates.mask is not None:
        real = real & candidates.mask[None, :]
    positive, negative = same & real, ~same & real
    if candidates.ids is not None:
        positive &= anchors.ids[:, None] != candidates.ids[None, :]
    return Masks(positive, negative)


def pair_numbers(anchors: Anchors, candidates: Candidates) -> Array:
    """Numbers of positives and of negatives of each anchor, float32 [2, b]; from the labels alone."""
    there = candidates.labels.shape[0] if candidates.mask is None else number(candidates.mask)
    # An anchor is among the candidates of its label, unless these are references.
    positives = anchors.size - (candidates.ids is not None)
    numbers = jnp.stack([positives, there - anchors.size]) * anchors.real[None, :]
    return numbers.astype(jnp.float32)


def column_of_positive(k: Array, anchors: Anchors, candidates: Candidates) -> tuple[Array, Array]:
    """Column of each anchor's k-th candidate of the same label, and whether there are so many.

    The anchor itself is among them: look it up in `Masks.positive`.

    Args:
        k: int32 [] or [1, K].
        anchors: b anchors.
        candidates: M candidates.

    Returns:
        int32 and bool, [b] or [b, K].
    """
    shape = (-1,) if k.ndim == 0 else (-1, 1)
    start, size = anchors.start.reshape(shape), anchors.size.reshape(shape)
    last = candidates.order.shape[0] - 1
    return candidates.order[jnp.clip(start + k, 0, last)], k < size
