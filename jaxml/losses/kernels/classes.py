"""Cross entropies of images over learned proxies or centres of the classes, with a margin for the own class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxml.losses.kernels import checks, divided_classes
from jaxml.losses.kernels.blocks import Block, Terms, sound
from jaxml.losses.kernels.comparison import compare_with_classes, mean
from jaxml.losses.kernels.devices import (
    gather,
    log_sum_exp_over_devices,
    number_of_devices,
    over_devices,
    own_part,
    vary,
)
from jaxml.losses.kernels.divided_classes import DividedClasses
from jaxml.losses.kernels.measures import MEASURES, sine
from jaxml.losses.kernels.reductions import count, log_sum_exp, ratio
from jaxml.losses.kernels.types import Aux

Array = jax.Array

Target = Callable[[Array, Array], Array]
"""target(cosines to the own class [b], margin []) -> what takes their place [b]; a function of this module."""


def classify(
    target: Target,
    comparison: tuple[Any, ...],
    divided: DividedClasses | None,
    scale: Any,
    margin: Any,
    class_weights: Any,
    by_length: bool = False,
) -> tuple[Array, Aux]:
    """Mean of the cross entropies; `comparison` are the arguments of `compare_with_classes`."""
    axis_name = comparison[-1]
    divided_classes.check(divided, axis_name)
    pairs = compare_with_classes(*comparison, parts=1 if divided is None else number_of_devices(axis_name))
    checks.number("scale", scale, above=0.0)
    classes = np.shape(comparison[3])[0]
    weights = None if class_weights is None else checks.class_weights(class_weights, classes)
    options = scale, margin, weights
    static = {"target": target, "classes": classes, "by_length": by_length}
    if divided is None:
        return mean(_cross_entropy, pairs, *options, measure="cosine similarity", **static)
    rate = float(divided.rate)
    if pairs.class_weights is not None:
        raise ValueError(
            "a loss of divided classes cannot be weighted; give class_weights, this device's share"
        )
    setting = pairs.block_size, pairs.axis_name
    return _divided_mean(pairs[:3], options, divided.key, rate=rate, setting=setting, **static)


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
    scale = _scale(block.x, scale, by_length)
    own = block.positive[:, :classes]
    cosine, others = _apart(block.measured, own, ~own, scale)
    if weights is not None:
        weights = weights[jnp.clip(block.anchor_facts.labels, 0, classes - 1)]
    return _terms(scale * target(cosine, margin), others, jnp.any(own, axis=1), weights)


@partial(jax.jit, static_argnames=("rate", "setting", "target", "classes", "by_length"))
def _divided_mean(
    arrays: tuple[Any, ...],
    options: tuple[Any, ...],
    key: Array | None,
    *,
    rate: float,
    setting: tuple[Any, ...],
    target: Target,
    classes: int,
    by_length: bool,
) -> tuple[Array, Aux]:
    """Mean of the cross entropies of the images of all devices, of which each holds so many classes."""
    (x, labels, references), (block_size, axis_name) = arrays, setting
    numbers = jax.tree.map(lambda o: jnp.asarray(o, jnp.float32), (references.embeddings, *options))
    points, scale, margin, weights = vary(numbers, axis_name)
    points, weights = own_part((points, weights), axis_name)
    # Extremes that are not finite: to look at each entry would take a mask of them all.
    extremes = jnp.stack([jnp.min(points), jnp.max(points)])
    bound = MEASURES["cosine similarity"].bound(x, extremes[None, :])
    bound = sum((jnp.max(jnp.abs(o)) for o in jax.tree.leaves((scale, margin, weights))), bound)

    x, labels = gather((x, labels), axis_name)
    place = labels - classes * jax.lax.axis_index(axis_name)
    held = (place >= 0) & (place < classes)
    place = jnp.where(held, place, classes)
    scales = jnp.broadcast_to(_scale(x, scale, by_length), place.shape)
    columns = divided_classes.drawn(place, classes, rate, key, axis_name)
    cosine, others = divided_classes.compare(
        _apart,
        x,
        jnp.moveaxis(points.reshape(-1, classes, x.shape[1]), 0, 1).reshape(classes, -1),
        scales,
        place,
        columns,
        block_size=block_size,
        axis_name=axis_name,
    )

    def of_holder(values: Array) -> Array:
        """Numbers of the images, float32 [B], from the device that holds their class; 0 if none does."""
        return over_devices(jnp.where(held, values, 0.0), axis_name)

    logit = of_holder(scales * target(cosine, margin))
    valid = of_holder(jnp.ones_like(scales)) > 0
    weights = None if weights is None else of_holder(weights[jnp.clip(place, 0, classes - 1)])
    sums = _terms(logit, log_sum_exp_over_devices(others, axis_name), valid, weights)
    sums = sums._replace(value=sums.value * sound(over_devices(bound, axis_name)))
    return ratio(sums.value, sums.valid), {"active": sums.active, "valid": sums.valid}


def _scale(x: Array, scale: Array, by_length: bool) -> Array:
    """Scale of the logits of images, float32 [b, D] and [] -> [], or [b] if it goes by the length of each."""
    if not by_length:
        return scale
    square = jnp.sum(x**2, axis=1)
    return scale * jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _apart(measured: Array, own: Array, others: Array, scale: Array) -> tuple[Array, Array]:
    """Cosine similarity to the own class, and the logarithm of the sum of e^{scale s} over others.

    They are kept apart, so that the margin of the own class needs no second matrix of logits.

    Args:
        measured: float32 [b, K x classes], to the proxies or centres, the first ones of all classes first.
        own: bool [b, classes], which class is the image's.
        others: bool [b, classes], which are to be summed over.
        scale: float32 [] or [b].

    Returns:
        float32 [b] and [b]; 0 and NOTHING where there is no such class.
    """
    s = jnp.max(measured.reshape(len(own), -1, own.shape[1]), axis=1)
    return jnp.sum(jnp.where(own, s, 0.0), axis=1), log_sum_exp(s * jnp.reshape(scale, (-1, 1)), others)


def _terms(logit: Array, others: Array, valid: Array, weights: Array | None) -> Terms:
    """Sums of the cross entropies of images, from the logit of the own class and the others, [b] each."""
    terms = jnp.where(valid, jnp.logaddexp(others, logit) - logit, 0.0)
    if weights is not None:
        terms = terms * weights
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
