"""The ranked list loss, which draws an anchor's positives and negatives to either side of a boundary."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxml.distances import DISTANCES
from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Terms
from jaxml.losses.kernels.comparison import compare, mean
from jaxml.losses.kernels.reductions import count
from jaxml.losses.kernels.relations import Masks
from jaxml.losses.kernels.types import Aux


def ranked_list(
    embeddings: Array,
    labels: Array | Masks,
    *,
    boundary: float | Array = 1.2,
    margin: float | Array = 0.4,
    positive_temperature: float | Array = 0.0,
    negative_temperature: float | Array = 10.0,
    balance: float | Array = 0.5,
    distance: str = "euclidean",
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Pull positives within boundary - margin of the anchor and push negatives beyond the boundary, the worst most.

    (1 - balance) sum_p w_p (d_ap - boundary + margin) / sum_p w_p
    + balance sum_n w_n (boundary - d_an) / sum_n w_n,
    over positives farther than boundary - margin, with w_p = e^{positive_temperature (d_ap - boundary + margin)}, and
    negatives nearer than the boundary, with w_n = e^{negative_temperature (boundary - d_an)}.

    Reduction: mean over all anchors; a part without such pairs is 0.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        boundary: alpha of the paper, in units of the distance.
        margin: at least 0, between the farthest allowed positive and the nearest allowed negative.
        positive_temperature: at least 0; 0 weighs all alike.
        negative_temperature: at least 0; 0 weighs all alike.
        balance: 0 to 1, share of the negatives.
        distance: euclidean, squared, cosine, snr, manhattan or dot.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` (violating) and `valid` (all) pairs.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Wang et al. 2019, Ranked List Loss for Deep Metric Learning, section 3. The weights have a gradient, as in
    pytorch-metric-learning.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.ranked_list(embeddings, labels)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} pairs")
        0.076, 2 of 12 pairs
    """
    pairs = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    checks.number("boundary", boundary)
    checks.number("margin", margin, minimum=0.0)
    checks.number("positive_temperature", positive_temperature, minimum=0.0)
    checks.number("negative_temperature", negative_temperature, minimum=0.0)
    checks.number("balance", balance, minimum=0.0, maximum=1.0)
    checks.choice("distance", distance, DISTANCES)
    options = boundary, margin, positive_temperature, negative_temperature, balance
    return mean(_ranked_list, pairs, *options, measure=distance, per="anchors")


def _ranked_list(
    block: Block, boundary: Array, margin: Array, hot_positive: Array, hot_negative: Array, balance: Array
) -> Terms:
    """Terms of the anchors of a block."""
    d = block.measured
    far, near = d - boundary + margin, boundary - d
    positive, negative = block.positive & (far > 0), block.negative & (near > 0)
    x = jnp.where(positive, far, near)
    hot = jnp.where(positive, hot_positive, hot_negative)
    of_positives, of_negatives = _weighted_means(x, hot, positive, negative)
    terms = (1.0 - balance) * of_positives + balance * of_negatives
    valid = jnp.sum(block.positive_count + block.negative_count)
    return Terms(jnp.sum(terms), count(positive | negative), valid)


def _weighted_means(x: Array, hot: Array, positive: Array, negative: Array) -> list[Array]:
    """Means of the positive and of the negative entries of each row, [b, M] -> [b], weighted by e^{hot x}; 0 of none.

    One exponential serves each entry, whichever kind it is of.
    """
    kinds = positive, negative
    top, other_top = (
        jax.lax.stop_gradient(jnp.max(jnp.where(kind, x, 0.0), axis=1, keepdims=True)) for kind in kinds
    )
    chosen = positive | negative
    less = hot * (x - jnp.where(positive, top, other_top))
    w = jnp.where(chosen, jnp.exp(jnp.where(chosen, less, 0.0)), 0.0)
    means = []
    for kind in kinds:
        own = jnp.where(kind, w, 0.0)
        total = jnp.sum(own, axis=1)
        means.append(jnp.where(total > 0, jnp.sum(own * x, axis=1) / jnp.where(total > 0, total, 1.0), 0.0))
    return means
