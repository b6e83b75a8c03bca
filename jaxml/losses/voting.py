"""Classification by soft votes of the key points of classes, added to a triplet loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Terms
from jaxml.losses.kernels.comparison import compare_with_classes, mean
from jaxml.losses.kernels.reductions import count, log_sum_exp, ratio
from jaxml.losses.kernels.types import Aux
from jaxml.losses.triplet import triplet


def soft_voting(
    embeddings: Array,
    labels: Array,
    key_points: Array,
    *,
    weight: float | Array = 1.0,
    temperature: float | Array = 0.1,
    formula: str = "hinge",
    mining: str = "all",
    margin: float | Array = 0.2,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[Array, Aux]:
    """Let several key points per class vote on an image's class, and add a triplet loss.

    triplet - weight log(sum_k e^{-|x - w_yk|^2 / temperature} / sum_{c, k} e^{-|x - w_ck|^2 / temperature}).
    A class may cover a manifold: an image need be near one of its key points, not near their mean.

    Reduction: the triplet loss's own, plus the mean over images of the votes' cross entropy.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], class indices.
        key_points: float [classes, K, D].
        weight: at least 0.
        temperature: above 0, in units of the squared distance.
        formula: of the triplet loss.
        mining: of the triplet loss; any but distance_weighted.
        margin: of the triplet loss.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss, and the dict of the triplet loss with one more entry, `accuracy`: the share of images whose
        own class has the most votes.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Shah 2017, future work; without the triplet loss, and with one key point per class of unit length, it
    is the normalised softmax loss.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> key_points = jnp.array([[[0.0, 1.0], [0.6, 0.8]], [[1.0, 0.0], [0.8, -0.6]]])
        >>> loss, aux = losses.soft_voting(embeddings, labels, key_points, margin=0.5, temperature=1.0)
        >>> print(f"{loss:.3f}, {aux['accuracy']:.0%} of the images right")
        0.438, 100% of the images right
    """
    checks.number("weight", weight, minimum=0.0)
    checks.number("temperature", temperature, above=0.0)
    pairs = compare_with_classes(embeddings, labels, "key_points", key_points, 3, block_size, axis_name)
    loss, aux = triplet(
        embeddings,
        labels,
        formula=formula,
        mining=mining,
        margin=margin,
        block_size=block_size,
        axis_name=axis_name,
    )
    classes = np.shape(key_points)[0]
    vote, votes = mean(_vote, pairs, measure="squared", scale=1.0 / temperature, classes=classes)
    return loss + jnp.float32(weight) * vote, {**aux, "accuracy": ratio(votes["active"], votes["valid"])}


def _vote(block: Block, *, classes: int) -> Terms:
    """Cross entropies of the votes; active is the number of images whose own class has the most votes."""
    logits = -block.measured
    valid = block.positive_count > 0
    terms = jax.nn.logsumexp(logits, axis=1) - log_sum_exp(logits, block.positive)
    by_class = jax.nn.logsumexp(logits.reshape(logits.shape[0], -1, classes), axis=1)
    right = valid & (jnp.argmax(by_class, axis=1) == block.anchor_facts.labels)
    return Terms(jnp.sum(jnp.where(valid, terms, 0.0)), count(right), count(valid))
