"""Classification by soft voting from key points, added to a triplet loss."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.distances import largest, pairwise
from jaxml.losses import blocks, checks, rows
from jaxml.losses.triplet import triplet

Array = jax.Array
Aux = dict[str, Array]


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
        float32 loss, and the triplet loss's dict with, besides, `accuracy`: the share of images that the vote
        puts into their class.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Shah 2017, future work; without the triplet loss, and with one key point per class of unit length, it
    is the normalised softmax loss.
    """
    x, labels = checks.labelled(embeddings, labels)
    w, classes = checks.centres("key_points", key_points, labels, x.shape[1], ndim=3)
    checks.number("weight", weight, minimum=0.0)
    checks.number("temperature", temperature, above=0.0)
    loss, aux = triplet(
        x, labels, formula=formula, mining=mining, margin=margin, block_size=block_size, axis_name=axis_name
    )
    vote, accuracy = _vote(x, classes, w, temperature, block_size, axis_name)
    return loss + weight * vote, {**aux, "accuracy": accuracy}


@partial(jax.jit, static_argnums=(4, 5))
def _vote(
    x: Array, labels: Array, w: Array, temperature: Array, block_size: int | None, axis_name: str | None
) -> tuple[Array, Array]:
    classes, k, width = w.shape
    references = blocks.References(w.reshape(-1, width), jnp.repeat(jnp.arange(classes, dtype=jnp.int32), k))
    batch = blocks.batch(x, labels, references, axis_name)
    bound = largest(batch.x, batch.found, "squared") / temperature
    function = partial(_vote_rows, k)
    value, aux = blocks.sum_rows(function, batch, temperature, bound=bound, block_size=block_size)
    return blocks.ratio(value, aux["valid"]), blocks.ratio(aux["right"], aux["valid"])


def _vote_rows(k: int, x: Array, found: Array, temperature: Any, block: blocks.Block) -> tuple[Array, Aux]:
    logits = -pairwise(x, found, "squared") / temperature
    positive = block.masks.positive
    valid = jnp.any(positive, axis=1)
    values = jax.nn.logsumexp(logits, axis=1) - rows.log_sum_exp(logits, positive)
    by_class = jax.nn.logsumexp(logits.reshape(x.shape[0], -1, k), axis=2)
    right = jnp.argmax(by_class, axis=1) == block.anchors.labels
    value = jnp.sum(jnp.where(valid, values, 0.0))
    return value, {"valid": blocks.count(valid), "right": blocks.count(valid & right)}
