"""Losses that compare images with learned proxies or centres of the classes."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.distances import l2_normalize, largest, pairwise
from jaxml.losses import blocks, checks, rows

Array = jax.Array
Aux = dict[str, Array]


def proxies(key: Array, num_classes: int, feature_size: int) -> Array:
    """Initial proxies, float32 [classes, D]: random directions."""
    return l2_normalize(jax.random.normal(key, (num_classes, feature_size)))


def centres(key: Array, num_classes: int, feature_size: int, *, num_centres: int = 10) -> Array:
    """Initial centres or key points, float32 [classes, centres, D]: random directions."""
    return l2_normalize(jax.random.normal(key, (num_classes, num_centres, feature_size)))


def proxy_nca(
    embeddings: Array,
    labels: Array,
    proxies: Array,
    *,
    scale: float | Array = 1.0,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[Array, Aux]:
    """Bring an image nearer to its class's proxy than to the others.

    -log(e^{-scale |x - p_y|^2} / sum_{z != y} e^{-scale |x - p_z|^2}), x and p scaled to unit length.

    Reduction: mean over images; 0 if there is one class only.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], class indices.
        proxies: float [classes, D].
        scale: above 0; 1 in the paper, 9 in later reimplementations.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss (it can be negative), and a dict with the float32 numbers of `active` and `valid` images.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Movshovitz-Attias et al. 2017, No Fuss Distance Metric Learning using Proxies, equation 4. The own proxy
    is not in the sum; pytorch-metric-learning and others put it there.
    """
    x, y = checks.labelled(embeddings, labels)
    p, y = checks.centres("proxies", proxies, y, x.shape[1])
    checks.number("scale", scale, above=0.0)
    checks.block_size(block_size)
    return _proxy_nca(x, y, p, scale, block_size, axis_name)


@partial(jax.jit, static_argnums=(4, 5))
def _proxy_nca(
    x: Array, labels: Array, p: Array, scale: Array, block_size: int | None, axis_name: str | None
) -> tuple[Array, Aux]:
    references = blocks.References(l2_normalize(p), jnp.arange(p.shape[0], dtype=jnp.int32))
    batch = blocks.batch(l2_normalize(x), labels, references, axis_name)
    bound = scale * largest(batch.x, batch.found, "squared")
    value, aux = blocks.sum_rows(_proxy_nca_rows, batch, scale, bound=bound, block_size=block_size)
    return blocks.ratio(value, aux["valid"]), {**aux, "active": aux["valid"]}


def _proxy_nca_rows(x: Array, found: Array, scale: Any, block: blocks.Block) -> tuple[Array, Aux]:
    d = scale * pairwise(x, found, "squared")
    positive, negative = block.masks
    valid = jnp.any(positive, axis=1) & jnp.any(negative, axis=1)
    values = jnp.sum(jnp.where(positive, d, 0.0), axis=1) + rows.log_sum_exp(-d, negative)
    return jnp.sum(jnp.where(valid, values, 0.0)), {"valid": blocks.count(valid)}


def proxy_anchor(
    embeddings: Array,
    labels: Array,
    proxies: Array,
    *,
    alpha: float | Array = 32.0,
    delta: float | Array = 0.1,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[Array, Aux]:
    """Take each class's proxy as an anchor, and the images of the batch as its positives and negatives.

    1/|P+| sum_{p in P+} log(1 + sum_{x of p} e^{-alpha (s_xp - delta)})
    + 1/|P| sum_p log(1 + sum_{x not of p} e^{alpha (s_xp + delta)}), s the cosine similarity.

    Reduction: mean over proxies, those with an image in the batch (P+) for the first part, all (P) for the second.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], class indices.
        proxies: float [classes, D].
        alpha: above 0, sharpness.
        delta: margin of the similarity.
        block_size: proxies at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss, and a dict with the float32 numbers of proxies that are `active` (P+) and `valid` (P).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Kim et al. 2020, Proxy Anchor Loss for Deep Metric Learning, equation 4.
    """
    x, y = checks.labelled(embeddings, labels)
    p, y = checks.centres("proxies", proxies, y, x.shape[1])
    checks.number("alpha", alpha, above=0.0)
    checks.number("delta", delta)
    checks.block_size(block_size)
    return _proxy_anchor(x, y, p, (alpha, delta), block_size, axis_name)


@partial(jax.jit, static_argnums=(4, 5))
def _proxy_anchor(
    x: Array, labels: Array, p: Array, options: Any, block_size: int | None, axis_name: str | None
) -> tuple[Array, Aux]:
    images = blocks.References(*blocks.gather((x, labels), axis_name))
    classes = jnp.arange(p.shape[0], dtype=jnp.int32)
    present = jnp.any(classes[:, None] == images.labels[None, :], axis=1)
    number = jnp.sum(present.astype(jnp.float32))
    weights = blocks.ratio(1.0, number), jnp.float32(1.0 / p.shape[0])
    batch = blocks.batch(p, classes, images, axis_name)
    options = (*options, *weights)
    bound = largest(batch.x, batch.found, "cosine")
    loss, _ = blocks.sum_rows(_proxy_anchor_rows, batch, options, bound=bound, block_size=block_size)
    # Every device has summed over all proxies and all images.
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    aux = {"active": number, "valid": jnp.float32(p.shape[0])}
    aux = jax.tree.map(partial(blocks.over_devices, axis_name=axis_name), blocks.vary(aux, axis_name))
    return loss / devices, jax.tree.map(lambda a: a / devices, aux)


def _proxy_anchor_rows(x: Array, found: Array, options: Any, block: blocks.Block) -> tuple[Array, Aux]:
    alpha, delta, positive_weight, negative_weight = options
    s = 1.0 - pairwise(x, found, "cosine")
    pull = rows.log1p_sum_exp(-alpha * (s - delta), block.masks.positive)
    push = rows.log1p_sum_exp(alpha * (s + delta), block.masks.negative)
    return jnp.sum(positive_weight * pull + negative_weight * push), {}


def soft_triple(
    embeddings: Array,
    labels: Array,
    centres: Array,
    *,
    scale: float | Array = 20.0,
    gamma: float | Array = 0.1,
    margin: float | Array = 0.01,
    tau: float | Array = 0.2,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[Array, Aux]:
    """Classify by a softmax over classes with several centres each.

    -log(e^{scale (S_y - margin)} / (e^{scale (S_y - margin)} + sum_{c != y} e^{scale S_c}))
    + tau / (C K (K - 1)) sum_c sum_{s < t} sqrt(2 - 2 w_cs . w_ct),
    S_c = sum_k q_k x . w_ck, q = softmax_k(x . w_ck / gamma), x and w of unit length; C classes, K centres each.

    Reduction: mean over images.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], class indices.
        centres: float [classes, K, D].
        scale: above 0, lambda of the paper.
        gamma: above 0, softness of the choice of centre.
        margin: at least 0.
        tau: weight of the term that draws centres of a class together; at least 0.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` images (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Qian et al. 2019, SoftTriple Loss, equations 6-9; defaults from its section 4.
    """
    x, y = checks.labelled(embeddings, labels)
    w, y = checks.centres("centres", centres, y, x.shape[1], ndim=3)
    checks.number("scale", scale, above=0.0)
    checks.number("gamma", gamma, above=0.0)
    checks.number("margin", margin, minimum=0.0)
    checks.number("tau", tau, minimum=0.0)
    checks.block_size(block_size)
    return _soft_triple(x, y, w, (scale, gamma, margin), tau, block_size, axis_name)


@partial(jax.jit, static_argnums=(5, 6))
def _soft_triple(
    x: Array, labels: Array, w: Array, options: Any, tau: Array, block_size: int | None, axis_name: str | None
) -> tuple[Array, Aux]:
    (classes, k, width), w = w.shape, l2_normalize(w)
    references = blocks.References(w.reshape(-1, width), jnp.repeat(jnp.arange(classes, dtype=jnp.int32), k))
    batch = blocks.batch(l2_normalize(x), labels, references, axis_name)
    function = partial(_soft_triple_rows, k)
    bound = largest(batch.x, batch.found, "cosine")
    value, aux = blocks.sum_rows(function, batch, options, bound=bound, block_size=block_size)
    loss = blocks.ratio(value, aux["valid"])
    if k > 1:
        loss = loss + tau * _spread(w, axis_name)
    return loss, {**aux, "active": aux["valid"]}


def _spread(w: Array, axis_name: str | None) -> Array:
    """Sum over classes and pairs s < t of |w_s - w_t|, by C K (K - 1)."""
    classes, k, _ = w.shape
    apart = jnp.square(w[:, :, None, :] - w[:, None, :, :]).sum(axis=-1)
    upper = jnp.triu(jnp.ones((k, k), bool), 1)[None]
    # Coinciding centres have no direction to part in: distance 0, gradient 0.
    upper = upper & (apart > 1e-12)
    value = jnp.sum(jnp.where(upper, jnp.sqrt(jnp.where(upper, apart, 1.0)), 0.0))
    # Each device adds its share, so that averaging gradients is right here too.
    value = blocks.vary(value / (classes * k * (k - 1)), axis_name)
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    return blocks.over_devices(value, axis_name) / devices


def _soft_triple_rows(k: int, x: Array, found: Array, options: Any, block: blocks.Block) -> tuple[Array, Aux]:
    scale, gamma, margin = options
    s = (1.0 - pairwise(x, found, "cosine")).reshape(x.shape[0], -1, k)
    by_class = jnp.sum(jax.nn.softmax(s / gamma, axis=2) * s, axis=2)
    own = jnp.any(block.masks.positive.reshape(s.shape), axis=2)
    valid = jnp.any(own, axis=1)
    logits = scale * (by_class - jnp.where(own, margin, 0.0))
    values = jax.nn.logsumexp(logits, axis=1) - jnp.sum(jnp.where(own, logits, 0.0), axis=1)
    return jnp.sum(jnp.where(valid, values, 0.0)), {"valid": blocks.count(valid)}
