"""Weights of classes: the terms of each anchor of a block, times the weight of its class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.losses.kernels.blocks import Block, Terms
from jaxml.losses.kernels.labels import of_classes

Array = jax.Array


def weighted_terms(
    terms: Callable[..., Terms], block: Block, options: tuple[Any, ...], class_weights: Array
) -> Terms:
    """Sums over the anchors of a block, of which the value is weighted and the counts are not.

    A function of a block returns one sum over its anchors, whose parts cannot be told apart any more; so each anchor is
    a block of its own here, all of them side by side.

    Args:
        terms: terms(block, *options), of any block.
        block: b anchors whose labels are class indices.
        options: arguments of `terms`.
        class_weights: float32 [classes].
    """

    def of_one(anchor: Any) -> Terms:
        x, facts, positive, negative, own, seeds = jax.tree.map(lambda a: a[None], anchor)
        one = replace(
            block, x=x, anchor_facts=facts, positive=positive, negative=negative, own=own, seeds=seeds
        )
        return terms(one, *options)

    each = jax.vmap(of_one)(
        (block.x, block.anchor_facts, block.positive, block.negative, block.own, block.seeds)
    )
    value = each.value * of_classes(class_weights, block.anchor_facts.labels)
    return jax.tree.map(jnp.sum, each._replace(value=value))
