"""Weights of classes: a loss in which some classes count more than others."""

from __future__ import annotations

from functools import wraps
from typing import Any

from jax import Array

from jaxml.losses.kernels import checks
from jaxml.losses.kernels.labels import WeightedLabels, class_indices
from jaxml.losses.kernels.types import Aux, Loss


def weighted(loss: Loss, class_weights: Any) -> Loss:
    """Make of a loss one in which the terms of every anchor are multiplied by the weight of its class.

    1/n sum_a w_{y_a} sum_i l_ai, for a loss that is 1/n sum_a sum_i l_ai over the terms l_ai of the anchors a; n, which
    the docstring of the loss names, stays the number that it is without weights. The anchors of `proxy_anchor` are its
    proxies; what `soft_triple` adds for its centres has no anchor and no weight. Accelerators compute a weighted
    `triplet` in blocks, which takes longer than their own form of it.

    Args:
        loss: a function of jaxml.losses.LOSSES, or what a transform makes of one.
        class_weights: float [classes], not negative.

    Returns:
        A function like `loss`, whose labels are class indices; its aux counts what counts without weights.

    Raises:
        ValueError: class_weights are negative, not finite or no vector; and, when the function is called, a label has
            no weight.

    Source: the class weights of pytorch-metric-learning's ClassWeightedReducer; those of the classification losses,
    `class_weights`, are the same.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss = losses.weighted(losses.triplet, jnp.array([3.0, 1.0]))
        >>> value, aux = loss(embeddings, labels, margin=0.5)
        >>> print(f"{value:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} triplets")
        0.476, 2 of 8 triplets
    """
    weights = checks.class_weights(class_weights)

    @wraps(loss)
    def of_weights(embeddings: Any, labels: Any, *parameters: Any, **options: Any) -> tuple[Array, Aux]:
        x, y = checks.labelled(embeddings, labels)
        y = class_indices("class_weights", weights.shape[0], y)
        return loss(x, WeightedLabels(y, weights), *parameters, **options)

    return of_weights
