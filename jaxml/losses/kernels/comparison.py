"""One form for every loss: `compare` a batch with its candidates, take the `mean` of the terms of its anchors.

A loss is a public function, which checks its arguments, and a function that is given one block of anchors and returns
the sums over it. All else is here, once: the compiled function, the blocks, the gradient and several devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxml.losses.kernels import block_loop, blocks, checks, negatives, sharding
from jaxml.losses.kernels.blocks import Block, References, Sides, Terms
from jaxml.losses.kernels.devices import number_of_devices, over_devices
from jaxml.losses.kernels.labels import WeightedLabels
from jaxml.losses.kernels.measures import MEASURES
from jaxml.losses.kernels.reductions import ratio
from jaxml.losses.kernels.relations import Masks, pair_numbers
from jaxml.losses.kernels.types import Aux
from jaxml.losses.kernels.weights import weighted_terms

Array = jax.Array


class Comparison(NamedTuple):
    """A batch and what it is compared with, as the arguments of a loss say it; `blocks.Sides` is made of it."""

    embeddings: Array
    """float32 [B, D]"""
    labels: Array | Masks
    """int32 [B], or masks in their place."""
    references: References | None
    """The candidates; the batch of all devices if None."""
    block_size: int | None
    axis_name: str | None
    class_weights: Array | None = None
    """float32 [classes], indexed by labels: the terms of an anchor count as often as its class weighs."""


class Each(Protocol):
    """Computes numbers for each anchor of some sides, in blocks."""

    def __call__(self, function: Callable[..., Array], sides: Sides, own: Any = ()) -> Array:
        """function(block, *options) -> [b, ...], as [B, ...]; `own` are arrays [B, ...] for `block.own`."""


Prepare = Callable[..., tuple[Any, Any]]
"""prepare(sides, each, *options) -> (own, shared): arrays [B, ...], and any others, for `block.own`, `block.shared`."""


def compare(
    embeddings: Any,
    labels: Any,
    references: Any = None,
    reference_labels: Any = None,
    reference_mask: Any = None,
    block_size: int | None = None,
    axis_name: str | None = None,
    masks: bool = False,
) -> Comparison:
    """Check a batch and what it is compared with: the references where given, else itself.

    Args:
        embeddings: float [B, D].
        labels: int [B], or masks in their place.
        references: float [M, D].
        reference_labels: int [M]; not together with masks.
        reference_mask: bool [M].
        block_size: anchors at a time.
        axis_name: mapped axis that the batch is divided over.
        masks: whether the loss asks of the labels no more than which candidates are positives and negatives.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.
    """
    checks.block_size(block_size)
    labels, weights = _weights(labels)
    if isinstance(labels, Masks) and not masks:
        raise ValueError("labels must be an integer array [B]: this loss takes no masks in their place")
    x, y, r = checks.batch(embeddings, labels, references, reference_labels, reference_mask, axis_name)
    return Comparison(x, y, r, block_size, axis_name, weights)


def compare_with_classes(
    embeddings: Any,
    labels: Any,
    name: str,
    points: Any,
    ndim: int,
    block_size: int | None = None,
    axis_name: str | None = None,
    *,
    parts: int = 1,
) -> Comparison:
    """Check a batch and the learned points of the classes that it is compared with, called `name` in messages.

    Args:
        embeddings: float [B, D].
        labels: int [B], class indices.
        name: of the parameter.
        points: float [classes, D] or, with ndim 3, [classes, points of each, D]. The candidates are the first points
            of all classes, then the second ones, and so on: sums over the points of a class are then sums of long rows.
        ndim: 2 or 3.
        block_size: as in `compare`.
        axis_name: as in `compare`.
        parts: devices that the classes are divided over; the points are then one of so many parts.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.
    """
    checks.block_size(block_size)
    labels, weights = _weights(labels)
    x, y = checks.labelled(embeddings, labels)
    points, y = checks.centres(name, points, y, x.shape[1], ndim, parts)
    return Comparison(x, y, _as_references(points), block_size, axis_name, weights)


def _weights(labels: Any) -> tuple[Any, Array | None]:
    """The labels themselves, and the weights of their classes where they come with some."""
    return labels if isinstance(labels, WeightedLabels) else (labels, None)


def numbers_of_pairs(sides: Sides) -> list[Array]:
    """Numbers of the positive and of the negative pairs of all devices, float32 [] each."""
    numbers = pair_numbers(sides.anchor_facts, sides.candidate_facts)
    return [over_devices(jnp.sum(n), sides.axis_name) for n in numbers]


@jax.jit
def _as_references(points: Array) -> References:
    """Points of classes, float32 [classes, ..., D], as candidates labelled by class."""
    points = sharding.replicated(points)
    classes, width = points.shape[0], points.shape[-1]
    points = jnp.moveaxis(points.reshape(classes, -1, width), 0, 1).reshape(-1, width)
    return References(points, jnp.tile(jnp.arange(classes, dtype=jnp.int32), len(points) // classes))


def mean(
    terms: Callable[..., Terms],
    comparison: Comparison,
    *options: Any,
    measure: str,
    scale: Any = None,
    per: str | None = "valid",
    own: Any = (),
    key: Array | None = None,
    prepare: Prepare | None = None,
    turned: bool = False,
    whole: Callable[..., Terms] | None = None,
    ring: bool = False,
    **static: Any,
) -> tuple[Array, Aux]:
    """Add up the terms of all anchors of all devices, and divide by a number of them.

    Value and gradient are computed in one pass over blocks of anchors, in memory O(block_size x M). Both are NaN where
    an embedding or an option is not finite, or a distance exceeds what float32 can hold.

    Args:
        terms: terms(block, *options, **static) -> Terms; a function of a module, since it is compiled by name.
        comparison: from `compare` or `compare_with_classes`.
        options: float arrays with gradient.
        measure: one of measures.MEASURES, what `block.measured` is.
        scale: float [] with gradient, by which it is multiplied.
        per: divide by the number of `active` or `valid` terms or of all `anchors`; a plain sum if None.
        own: arrays [B, ...], whose rows are in `block.own`; those of floats have a gradient.
        key: random key, from which every anchor has a seed, whatever the blocks and devices.
        prepare: called first, with this device's anchors as `sides`, `own` among them; its results take its place.
        turned: take the candidates as anchors, and compare them with the batch.
        whole: the same sums without blocks, which all platforms but the CPU compute in place of `terms`:
            whole(embeddings, labels, references, *options, measure, block_size, axis_name, **static) -> Terms. Not
            together with `scale`, `own`, `key` and `turned`, which it does not take; nor with weights of classes
            or masks, for which `terms` are computed on all platforms.
        ring: compute `whole` on all platforms, and let it pass the candidates round the devices.
        static: for `terms`; hashable, and compiled for each value.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` terms.
    """
    c = comparison
    plan = _Plan(
        terms,
        measure,
        per,
        prepare,
        turned,
        whole if c.class_weights is None and not isinstance(c.labels, Masks) else None,
        ring,
        c.block_size,
        tuple(sorted(static.items(), key=itemgetter(0))),
    )
    arrays = c.embeddings, c.labels, own, c.references, options, scale, key, c.class_weights
    return _mean(*arrays, plan=plan, axis_name=c.axis_name)


class _Plan(NamedTuple):
    """What is fixed at compile time: arguments of `mean`."""

    terms: Callable[..., Terms]
    measure: str
    per: str | None
    prepare: Prepare | None
    turned: bool
    whole: Callable[..., Terms] | None
    ring: bool
    block_size: int | None
    static: tuple[tuple[str, Any], ...]


@partial(jax.jit, static_argnames=("plan", "axis_name"))
@sharding.divided(3)
def _mean(*arrays: Any, plan: _Plan, axis_name: str | None) -> tuple[Array, Aux]:
    """The arrays are embeddings, labels, own, references, options, scale, key and class weights, as `mean` has them."""
    x, labels, own, references, options, scale, key, class_weights = arrays
    options, scale = jax.tree.map(lambda o: jnp.asarray(o, jnp.float32), (options, scale))
    arrays = x, labels, own, references, options, scale, key, class_weights
    in_blocks = partial(_in_blocks, plan=plan, axis_name=axis_name)
    at_once = partial(_at_once, plan=plan, axis_name=axis_name)
    if plan.whole is None:
        sums = in_blocks(*arrays)
    elif plan.ring and axis_name is not None:
        sums = at_once(*arrays)
    else:
        sums = jax.lax.platform_dependent(*arrays, cpu=in_blocks, default=at_once)
    devices = number_of_devices(axis_name)
    anchors = x.shape[0] * devices
    if plan.turned:
        # Every device has compared all candidates with all of the batch.
        sums = jax.tree.map(lambda n: n / devices, sums)
        anchors = anchors if references is None else references.labels.shape[0]
    aux = {"active": sums.active, "valid": sums.valid}
    if plan.per is None:
        return sums.value, aux
    return ratio(sums.value, jnp.float32(anchors) if plan.per == "anchors" else aux[plan.per]), aux


def _at_once(*arrays: Any, plan: _Plan, axis_name: str | None) -> Terms:
    """The sums over the anchors of all devices, by `plan.whole`."""
    assert plan.whole is not None
    x, labels, _, references, options, *_ = arrays
    static = {"measure": plan.measure, "block_size": plan.block_size, **dict(plan.static)}
    if plan.ring:
        static["ring"] = True
    return plan.whole(x, labels, references, *options, axis_name=axis_name, **static)


def _in_blocks(*arrays: Any, plan: _Plan, axis_name: str | None) -> Terms:
    """The sums over the anchors of all devices, by `plan.terms`."""
    x, labels, own, references, options, scale, key, class_weights = arrays
    sides = blocks.sides(x, labels, references, axis_name)
    sides = blocks.turned(sides) if plan.turned else sides
    bound = MEASURES[plan.measure].bound(sides.x, sides.candidates)
    bound = bound if scale is None else bound * jnp.abs(scale)
    bound = sum((jnp.max(jnp.abs(o)) for o in jax.tree.leaves((options, class_weights))), bound)

    def each(function: Callable[..., Array], sides: Sides, own: Any = ()) -> Array:
        def of_block(block: Block, numbers: Any) -> Array:
            options, scale = numbers
            return function(replace(block, scale=scale, measure=plan.measure), *options)

        numbers = options, scale
        return block_loop.map_over_blocks(of_block, sides, numbers, block_size=plan.block_size, own=own)

    own, shared = (own, ()) if plan.prepare is None else plan.prepare(sides._replace(own=own), each, *options)
    seeds = None if key is None else negatives.seeds(key, sides.anchor_facts.ids)

    def of_block(block: Block, numbers: Any) -> Terms:
        (own, seeds), (options, scale, shared, class_weights) = block.own, numbers
        block = replace(block, own=own, seeds=seeds, shared=shared, scale=scale, measure=plan.measure)
        terms = partial(plan.terms, **dict(plan.static))
        if class_weights is None:
            return terms(block, *options)
        return weighted_terms(terms, block, options, class_weights)

    return block_loop.sum_over_blocks(
        of_block,
        sides,
        (options, scale, shared, class_weights),
        bound=bound,
        block_size=plan.block_size,
        own=(own, seeds),
    )
