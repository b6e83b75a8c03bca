"""Lifted structured loss, as published and in its generalised form."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jaxml.distances import DISTANCES
from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Sides, Terms, turned
from jaxml.losses.kernels.comparison import Each, compare, mean
from jaxml.losses.kernels.devices import gather
from jaxml.losses.kernels.reductions import NOTHING, count, log_sum_exp, log_sums_exp
from jaxml.losses.kernels.relations import Masks
from jaxml.losses.kernels.types import Aux


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
        distance: euclidean, squared, cosine, snr, manhattan or dot.
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

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.lifted(embeddings, labels)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        1.433, 4 of 4 pairs
    """
    pairs = compare(embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name)
    checks.number("margin", margin, minimum=0.0)
    checks.choice("distance", distance, DISTANCES)
    return mean(_pull, pairs, margin, measure=distance, prepare=_pushes)


def _pushes(sides: Sides, each: Each, margin: Array) -> tuple[Array, Array]:
    """`_push` of the anchors, float32 [B], and of the candidates against all anchors, float32 [M]."""
    of_anchors = each(_push, sides)
    if sides.candidate_facts.ids is None:
        return of_anchors, each(_push, turned(sides))
    return of_anchors, gather(of_anchors, sides.axis_name)


def _push(block: Block, margin: Array) -> Array:
    """log sum_k e^{margin - d_ik} over negatives k of each anchor i, float32 [b]."""
    return log_sum_exp(margin - block.measured, block.negative)


def _pull(block: Block, margin: Array) -> Terms:
    """Terms of the positive pairs of a block; what pushes anchors and candidates is prepared."""
    both = jnp.logaddexp(block.own[:, None], block.shared[None, :])
    valid = block.positive & (both > NOTHING / 2)
    j = jnp.where(valid, block.measured + both, 0.0)
    active = j > 0
    value = 0.5 * jnp.sum(jnp.square(jnp.where(active, j, 0.0)))
    return Terms(value, count(active), count(valid))


def generalized_lifted(
    embeddings: Array,
    labels: Array | Masks,
    *,
    margin: float | Array = 1.0,
    distance: str = "euclidean",
    one_sided: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Compare a soft maximum of an anchor's positive distances with a soft minimum of its negative ones.

    max(0, log sum_p e^{d_ap} + log sum_n e^{margin - d_an}).

    Reduction: mean over anchors that have a positive and a negative, or either with `one_sided`; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        margin: at least 0, in units of the distance.
        distance: euclidean, squared, cosine, snr, manhattan or dot.
        one_sided: whether anchors that have negatives only, or positives only, count with the one sum that they have.
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

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.generalized_lifted(embeddings, labels)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} anchors")
        0.973, 4 of 4 anchors
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    checks.number("margin", margin, minimum=0.0)
    checks.choice("distance", distance, DISTANCES)
    checks.choice("one_sided", one_sided, (False, True))
    return mean(_generalized, pairs, margin, measure=distance, one_sided=bool(one_sided))


def _generalized(block: Block, margin: Array, *, one_sided: bool) -> Terms:
    """Terms of the anchors of a block."""
    d = block.measured
    has_positive, has_negative = block.positive_count > 0, block.negative_count > 0
    valid = (has_positive | has_negative) if one_sided else (has_positive & has_negative)
    far, near = log_sums_exp(jnp.where(block.positive, d, margin - d), block.positive, block.negative)
    terms = jnp.where(has_positive, far, 0.0) + jnp.where(has_negative, near, 0.0)
    active = valid & (terms > 0)
    return Terms(jnp.sum(jnp.where(active, terms, 0.0)), count(active), count(valid))
