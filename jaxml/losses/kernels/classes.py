"""Cross entropies of images over learned proxies or centres of the classes, with a margin for the own class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxml.losses.kernels import checks
from jaxml.losses.kernels.blocks import Block, Terms
from jaxml.losses.kernels.comparison import compare_with_classes, mean
from jaxml.losses.kernels.measures import sine
from jaxml.losses.kernels.reductions import count, log_sum_exp

Array = jax.Array
Aux = dict[str, Array]

Target = Callable[[Array, Array], Array]
"""target(cosines to the own class [b], margin []) -> what takes their place [b]; a function of this module."""


def classify(
    target: Target,
    comparison: tuple[Any, ...],
    scale: Any,
    margin: Any,
    class_weights: Any,
    by_length: bool = False,
) -> tuple[Array, Aux]:
    """Mean of the cross entropies; `comparison` are the arguments of `compare_with_classes`."""
    pairs = compare_with_classes(*comparison)
    checks.number("scale", scale, above=0.0)
    classes = np.shape(comparison[3])[0]
    weights = None if class_weights is None else checks.class_weights(class_weights, classes)
    options = scale, margin, weights
    static = {"target": target, "classes": classes, "by_length": by_length}
    return mean(_cross_entropy, pairs, *options, measure="cosine similarity", **static)


def _cross_entropy(
    block: Block,
    scale: Array,
    margin: Array,
    weights: Array | None,
    *,
    target: Target,
    classes: int,
    by_length: bool,
) -> Terms:
    """Cross entropies of the images of a block, whose candidates are the proxies or centres of all classes."""
    shape = block.x.shape[0], classes, -1
    s = jnp.max(block.measured.reshape(shape), axis=2)
    own = jnp.any(block.positive.reshape(shape), axis=2)
    if by_length:
        square = jnp.sum(block.x**2, axis=1)
        scale = scale * jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    # The own class is kept apart from the others, so that its margin needs no second matrix of logits.
    others = log_sum_exp(s * jnp.reshape(scale, (-1, 1)), ~own)
    logit = scale * target(jnp.sum(jnp.where(own, s, 0.0), axis=1), margin)
    valid = jnp.any(own, axis=1)
    terms = jnp.where(valid, jnp.logaddexp(others, logit) - logit, 0.0)
    if weights is not None:
        terms = terms * weights[jnp.clip(block.anchor_facts.labels, 0, classes - 1)]
    number = count(valid)
    return Terms(jnp.sum(terms), number, number)


def no_margin(cosine: Array, margin: Array) -> Array:
    """s"""
    return cosine


def lowered(cosine: Array, margin: Array) -> Array:
    """s - margin"""
    return cosine - margin


def widened(cosine: Array, margin: Array) -> Array:
    """cos(t + margin), and cos t - margin sin(margin) where t + margin is beyond pi."""
    wide = cosine * jnp.cos(margin) - sine(cosine) * jnp.sin(margin)
    return jnp.where(cosine >= -jnp.cos(margin), wide, cosine - margin * jnp.sin(margin))


def multiplied(cosine: Array, margin: Array) -> Array:
    """(-1)^k cos(margin t) - 2 k, which falls from 1 at angle 0 to 1 - 2 margin at pi."""
    angle = jnp.arctan2(sine(cosine), cosine)
    k = jax.lax.stop_gradient(jnp.floor(margin * angle / jnp.pi))
    return jnp.where(k % 2 == 0, 1.0, -1.0) * jnp.cos(margin * angle) - 2.0 * k
