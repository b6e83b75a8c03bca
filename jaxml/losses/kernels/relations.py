"""Positives and negatives, by label or as given: facts about anchors and candidates, and positives one by one."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxml.losses.kernels.reductions import number, row_count, row_counts

Array = jax.Array


class Masks(NamedTuple):
    """Which candidates are an anchor's positives, and which its negatives; a loss may be given them in place of labels.

    Candidates are the images of the batch, of all devices, or the references where there are some. An image is never
    its own candidate, whatever the masks say, and one that is neither positive nor negative does not count.
    """

    positive: Array
    """bool [B, M]: anchors by candidates."""
    negative: Array
    """bool [B, M]"""


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
    given: Masks | None = None
    """The masks of the anchors, where they take the place of labels; `size` is the number of positives then."""
    order: Array | None = None
    """int32 [b, M]: candidates of each anchor, its positives first, where masks are given and `in_order` was asked."""


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


def facts(
    labels: Array | Masks,
    ids: Array,
    candidate_labels: Array,
    candidate_ids: Array | None,
    mask: Array | None = None,
) -> tuple[Anchors, Candidates]:
    """Find each anchor's positives by sorting the candidates' labels; no class size need be known.

    Args:
        labels: int32 [B], of the anchors; or masks in their place, for which the candidates' labels do not matter.
        ids: int32 [B], their places in the global batch.
        candidate_labels: int32 [M].
        candidate_ids: int32 [M]; None for references.
        mask: bool [M], which candidates are there; all if None.
    """
    if isinstance(labels, Masks):
        return _facts_of_masks(labels, ids, candidate_ids, mask)
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


def _facts_of_masks(
    given: Masks, ids: Array, candidate_ids: Array | None, mask: Array | None
) -> tuple[Anchors, Candidates]:
    """`facts` of masks."""
    there = jnp.ones(given.positive.shape, bool)
    if candidate_ids is not None:
        there = ids[:, None] != candidate_ids[None, :]
    if mask is not None:
        there = there & mask[None, :]
    given = Masks(*(relation & there for relation in given))
    none = jnp.zeros_like(ids)
    anchors = Anchors(none, ids, jnp.ones(ids.shape, bool), none, row_count(given.positive), given)
    count = given.positive.shape[1]
    columns = jnp.arange(count, dtype=jnp.int32)
    return anchors, Candidates(jnp.zeros_like(columns), candidate_ids, mask, columns)


def in_order(anchors: Anchors) -> Anchors:
    """The anchors with their candidates in an order for `column_of_positive`, where masks are given."""
    if anchors.given is None:
        return anchors
    return anchors._replace(order=jnp.argsort(~anchors.given.positive, axis=1, stable=True).astype(jnp.int32))


def masks(anchors: Anchors, candidates: Candidates) -> Masks:
    """Positives have the anchor's label and are not the anchor; negatives have another label. Two bool [b, M]."""
    if anchors.given is not None:
        return anchors.given
    real = anchors.real[:, None]
    same = anchors.labels[:, None] == candidates.labels[None, :]
    if candidates.mask is not None:
        real = real & candidates.mask[None, :]
    positive, negative = same & real, ~same & real
    if candidates.ids is not None:
        positive &= anchors.ids[:, None] != candidates.ids[None, :]
    return Masks(positive, negative)


def pair_numbers(anchors: Anchors, candidates: Candidates) -> Array:
    """Numbers of positives and of negatives of each anchor, float32 [2, b]; from the labels alone, or given masks."""
    if anchors.given is not None:
        return jnp.stack([row_count(relation) for relation in anchors.given]).astype(jnp.float32)
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
    place = jnp.clip(start + k, 0, last)
    if anchors.order is None:
        return candidates.order[place], k < size
    own = jnp.take_along_axis(anchors.order, place.reshape(place.shape[0], -1), axis=1)
    return own.reshape(place.shape), k < size
