"""Blocks of anchors and all candidates: what the functions of a loss are given, and what they return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxml.losses.kernels.devices import gather, vary
from jaxml.losses.kernels.measures import MEASURES
from jaxml.losses.kernels.reductions import count
from jaxml.losses.kernels.relations import Anchors, Candidates, Masks, facts, pair_numbers

Array = jax.Array

LARGEST = 1e37
"""Distances that may exceed this count as overflowed: sums and differences of a few must stay finite, see `sound`."""


class References(NamedTuple):
    """What a batch is compared with in place of itself."""

    embeddings: Array
    """float32 [M, D]"""
    labels: Array
    """int32 [M]"""
    mask: Array | None = None
    """bool [M]: which of them are there; None if all are."""


class Sides(NamedTuple):
    """This device's anchors, and the candidates of all devices. A `Block` is some of the anchors and all candidates."""

    x: Array
    """float32 [B, D]: embeddings of the anchors."""
    candidates: Array
    """float32 [M, D]: embeddings of the candidates."""
    anchor_facts: Anchors
    candidate_facts: Candidates
    axis_name: str | None
    own: Any = ()
    """Arrays [B, ...], one row for each anchor, as `mean` was given them."""


class Terms(NamedTuple):
    """Sums over anchors, float32 []."""

    value: Array
    """What the loss is made of; the only one with a gradient."""
    active: Array
    valid: Array


def terms_of(values: Array, valid: Array) -> Terms:
    """The sums of a block whose terms, float32 [...], are all active where they are valid, bool [...]."""
    number = count(valid)
    return Terms(jnp.sum(jnp.where(valid, values, 0.0)), number, number)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Block:
    """One block of b anchors against all M candidates: what the functions of a loss are given."""

    x: Array
    """float32 [b, D]: embeddings of the anchors."""
    candidates: Array
    """float32 [M, D]: embeddings of the candidates."""
    anchor_facts: Anchors
    candidate_facts: Candidates
    positive: Array
    """bool [b, M]: which candidates are of the anchor's class and are not the anchor itself."""
    negative: Array
    """bool [b, M]: which candidates are of another class."""
    own: Any = ()
    """Arrays [b, ...]: the anchors' rows of `own`, or of the first half of what `prepare` returned."""
    shared: Any = ()
    """The second half of what `prepare` returned."""
    seeds: Array | None = None
    """uint32 [b]: a seed for each anchor, where `mean` was given a key."""
    scale: Array | None = None
    """float32 []: factor of `measured`."""
    column: Array | None = None
    """int32 [b]: the one positive of each anchor, where a way of mining leaves one; its `anchor_facts.size` is 1 then,
    or 0 if the anchor has none."""
    measure: str = field(default="euclidean", metadata={"static": True})
    """One of measures.MEASURES."""
    all_positives: bool = field(default=True, metadata={"static": True})
    """Whether `positive` holds all positives, and not those only that a way of mining chose."""

    @property
    def measured(self) -> Array:
        """float32 [b, M]: distances or similarities, as `mean` was asked for, times its `scale`."""
        d = MEASURES[self.measure].between(self.x, self.candidates)
        return d if self.scale is None else self.scale * d

    @property
    def positive_count(self) -> Array:
        """float32 [b]: how many positives each anchor has, in a block of which mining chose none."""
        return pair_numbers(self.anchor_facts, self.candidate_facts)[0]

    @property
    def negative_count(self) -> Array:
        """float32 [b]: how many negatives each anchor has."""
        return pair_numbers(self.anchor_facts, self.candidate_facts)[1]

    @property
    def is_whole_batch(self) -> bool:
        """Whether the anchors are all of the batch, compared with itself."""
        return is_whole_batch(self.x, self.candidates, self.candidate_facts)


def sides(x: Array, labels: Array | Masks, references: References | None, axis_name: str | None) -> Sides:
    """Name the anchors and candidates: the references where given, else the batch, gathered over devices.

    References that are not there are zeros from here on, whatever they hold: a product of 0 and NaN is NaN.

    Args:
        x: float32 [B, D].
        labels: int32 [B], or masks in their place.
        references: M candidates in place of the batch.
        axis_name: mapped axis that the batch is divided over.
    """
    ids = jnp.arange(x.shape[0], dtype=jnp.int32)
    if axis_name is not None:
        ids = ids + jax.lax.axis_index(axis_name) * x.shape[0]
    if references is not None:
        (candidates, candidate_labels, mask), candidate_ids = references, None
        if mask is not None:
            candidates = jnp.where(mask[:, None], candidates, 0.0)
    else:
        own = ids if isinstance(labels, Masks) else labels  # masks need no labels of candidates
        (candidates, candidate_labels), mask = gather((x, own), axis_name), None
        candidate_ids = jnp.arange(candidates.shape[0], dtype=jnp.int32)
    of_anchors, of_candidates = facts(labels, ids, candidate_labels, candidate_ids, mask)
    x, candidates, of_anchors, of_candidates = vary((x, candidates, of_anchors, of_candidates), axis_name)
    return Sides(x, candidates, of_anchors, of_candidates, axis_name)


def turned(these: Sides) -> Sides:
    """The sides exchanged: every candidate is an anchor, and is compared with the anchors of all devices."""
    everybody = References(*gather((these.x, these.anchor_facts.labels), these.axis_name))
    return sides(these.candidates, these.candidate_facts.labels, everybody, these.axis_name)


def sound(bound: Array) -> Array:
    """1 where all distances are finite, NaN elsewhere: a factor of the loss, and through it of every gradient.

    Losses decide by comparisons which pairs count. NaN is neither nearer nor farther than anything, so it would drop
    out unseen and leave a finite loss. float32 [] -> float32 [].
    """
    return jnp.where(bound < LARGEST, 1.0, jnp.nan).astype(jnp.float32)


def is_whole_batch(x: Array, candidates: Array, facts: Candidates) -> bool:
    """Whether anchors [b, D] are all of the batch, and candidates [M, D] are the same images."""
    return facts.ids is not None and x.shape[0] == candidates.shape[0]
