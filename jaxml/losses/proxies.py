"""Losses that compare images with learned proxies or centres of the classes."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxml.distances import l2_normalize
from jaxml.losses.kernels import checks, sharding
from jaxml.losses.kernels.blocks import Block, Sides, Terms, terms_of
from jaxml.losses.kernels.comparison import Each, compare_with_classes, mean
from jaxml.losses.kernels.devices import number_of_devices, over_devices, vary
from jaxml.losses.kernels.reductions import count, log1p_sum_exp, log_sum_exp, ratio
from jaxml.losses.kernels.types import Aux


def proxies(key: Array, num_classes: int, feature_size: int) -> Array:
    """Draw initial proxies, float32 [classes, D]: random directions."""
    return l2_normalize(jax.random.normal(key, (num_classes, feature_size)))


def centres(key: Array, num_classes: int, feature_size: int, *, num_centres: int = 10) -> Array:
    """Draw initial centres or key points, float32 [classes, centres, D]: random directions."""
    return l2_normalize(jax.random.normal(key, (num_classes, num_centres, feature_size)))


def proxy_nca(
    embeddings: Array,
    labels: Array,
    proxies: Array,
    *,
    scale: float | Array = 1.0,
    own_in_sum: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[Array, Aux]:
    """Bring an image nearer to its class's proxy than to the others.

    -log(e^{-scale |x - p_y|^2} / sum_{z != y} e^{-scale |x - p_z|^2}), x and p scaled to unit length.
    With own_in_sum the sum is over all proxies z, a softmax.

    Reduction: mean over images; 0 if there is one class only.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], class indices.
        proxies: float [classes, D].
        scale: above 0; 1 in the paper, 9 in later reimplementations.
        own_in_sum: whether the own proxy is in the sum, as in pytorch-metric-learning and others.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss, which can be negative without own_in_sum, and a dict with the float32 numbers of `active` and
        `valid` images.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Movshovitz-Attias et al. 2017, No Fuss Distance Metric Learning using Proxies, equation 4, where the own
    proxy is not in the sum.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> proxies = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> loss, aux = losses.proxy_nca(embeddings, labels, proxies)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} images")
        -1.800, 4 of 4 images
    """
    pairs = compare_with_classes(embeddings, labels, "proxies", proxies, 2, block_size, axis_name)
    checks.number("scale", scale, above=0.0)
    checks.choice("own_in_sum", own_in_sum, (False, True))
    return mean(
        _proxy_nca, pairs, measure="squared, of unit vectors", scale=scale, own_in_sum=bool(own_in_sum)
    )


def _proxy_nca(block: Block, *, own_in_sum: bool) -> Terms:
    """Terms of the images of a block."""
    d = block.measured
    valid = (block.positive_count > 0) & (block.negative_count > 0)
    others = block.negative | block.positive if own_in_sum else block.negative
    terms = jnp.sum(jnp.where(block.positive, d, 0.0), axis=1) + log_sum_exp(-d, others)
    return terms_of(terms, valid)


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

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> proxies = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> loss, aux = losses.proxy_anchor(embeddings, labels, proxies)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} proxies")
        12.820, 2 of 2 proxies
    """
    pairs = compare_with_classes(embeddings, labels, "proxies", proxies, 2, block_size, axis_name)
    checks.number("alpha", alpha, above=0.0)
    checks.number("delta", delta)
    return mean(
        _proxy_anchor,
        pairs,
        alpha,
        delta,
        measure="cosine similarity",
        per="anchors",
        prepare=_proxies_with_images,
        turned=True,
    )


def _proxies_with_images(sides: Sides, each: Each, *options: Array) -> tuple[Any, Array]:
    """The number of all proxies by the number of those with an image, float32 [], to share."""
    size = sides.anchor_facts.size
    return (), ratio(size.shape[0], count(size > 0))


def _proxy_anchor(block: Block, alpha: Array, delta: Array) -> Terms:
    """Terms of the proxies of a block, which are the anchors; images are the candidates."""
    s, present = block.measured, block.positive_count > 0
    pull = log1p_sum_exp(-alpha * (s - delta), block.positive)
    push = log1p_sum_exp(alpha * (s + delta), block.negative)
    value = jnp.where(block.anchor_facts.real, block.shared * pull + push, 0.0)
    return Terms(jnp.sum(value), count(present), count(block.anchor_facts.real))


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

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> centres = jnp.array([[[0.0, 1.0], [0.6, 0.8]], [[1.0, 0.0], [0.8, -0.6]]])
        >>> loss, aux = losses.soft_triple(embeddings, labels, centres)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} images")
        0.064, 4 of 4 images
    """
    pairs = compare_with_classes(embeddings, labels, "centres", centres, 3, block_size, axis_name)
    checks.number("scale", scale, above=0.0)
    checks.number("gamma", gamma, above=0.0)
    checks.number("margin", margin, minimum=0.0)
    checks.number("tau", tau, minimum=0.0)
    classes, number, _ = np.shape(centres)
    options = scale, gamma, margin
    loss, aux = mean(_soft_triple, pairs, *options, measure="cosine similarity", classes=classes)
    if number > 1:
        loss = loss + jnp.float32(tau) * _spread(jnp.asarray(centres, jnp.float32), axis_name)
    return loss, aux


def _soft_triple(block: Block, scale: Array, gamma: Array, margin: Array, *, classes: int) -> Terms:
    """Cross entropies of the images of a block."""
    s = block.measured.reshape(block.x.shape[0], -1, classes)
    by_class = jnp.sum(jax.nn.softmax(s / gamma, axis=1) * s, axis=1)
    own = block.positive[:, :classes]
    logits = scale * (by_class - jnp.where(own, margin, 0.0))
    valid = block.positive_count > 0
    terms = jax.nn.logsumexp(logits, axis=1) - jnp.sum(jnp.where(own, logits, 0.0), axis=1)
    return terms_of(terms, valid)


@partial(jax.jit, static_argnums=1)
def _spread(centres: Array, axis_name: str | None) -> Array:
    """Sum over classes and pairs s < t of |w_s - w_t|, by C K (K - 1); float32 [C, K, D] -> float32 []."""
    w = l2_normalize(sharding.replicated(centres))
    classes, k, _ = w.shape
    apart = jnp.square(w[:, :, None, :] - w[:, None, :, :]).sum(axis=-1)
    upper = jnp.triu(jnp.ones((k, k), bool), 1)[None]
    # The distance of centres that coincide is 0, and has no direction: its gradient is set to 0.
    upper = upper & (apart > 1e-12)
    value = jnp.sum(jnp.where(upper, jnp.sqrt(jnp.where(upper, apart, 1.0)), 0.0)) / (classes * k * (k - 1))
    # Each device adds its share, so that averaging gradients is right here too.
    share = vary(value, axis_name) / number_of_devices(axis_name)
    return over_devices(share, axis_name)
