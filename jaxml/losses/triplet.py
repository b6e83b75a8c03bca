"""Triplet losses over the batch: six formulas, nine ways to mine."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxml.distances import DISTANCES, largest, pairwise
from jaxml.losses.kernels import blocks, checks, selected, sharding, sorted_sweep, sweep
from jaxml.losses.kernels import mining as miners
from jaxml.losses.kernels.formulas import FORMULAS

Array = jax.Array


class Choice(NamedTuple):
    """What is fixed at compile time."""

    formula: str
    mining: str
    distance: str
    symmetric: bool
    """Anchors and candidates are the same images."""


def triplet(
    embeddings: Array,
    labels: Array,
    *,
    formula: str = "hinge",
    mining: str = "all",
    margin: float | Array = 0.2,
    distance: str = "euclidean",
    quantile: float | Array = 0.6,
    cutoff: float | Array = 0.5,
    upper_cutoff: float | Array = 1.4,
    key: Array | None = None,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Pull an anchor a closer to its positives p than to its negatives n.

    Formulas, of distances d:
        hinge: max(0, d_ap - d_an + margin)
        squared_hinge: max(0, d_ap^2 - d_an^2 + margin)
        soft: d_ap + log(e^{margin - d_an} + e^{margin - d_pn})
        ratio: 2 s^2, ratio_original: 2 s, with s = e^{d_ap} / (e^{d_ap} + e^{d_an}); no margin
        softplus: log(1 + e^{d_ap - d_an}); no margin
    Mining, which (a, p, n) count (for squared_hinge, d stands for its square here too):
        all: every triplet
        semi_hard: d_ap < d_an < d_ap + margin, whatever the formula
        original_semi_hard: d_an < d_ap
        hardest: every p, with the n of least d_an
        batch_hard: the p of greatest d_ap, with the n of least d_an
        local: p within the `quantile` of the anchor's d_ap; local_class: of all d_ap of the class; every n
        easy_positive: the p of least d_ap; every n
        distance_weighted: every p, with one n drawn by the distance of the unit vectors (needs `key`)

    Reduction: mean over active triplets: those above 0 for the hinges, all mined ones for the other formulas;
    0 if there is none. Time O(B M K D), memory O(block_size x M): no array of size B^3. local_class finds its
    limit by bisection and costs ten times the others.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B].
        formula: one of FORMULAS.
        mining: one of jaxml.losses.kernels.mining.MINING.
        margin: at least 0, in units of the distance (of its square for squared_hinge).
        distance: euclidean, squared or cosine.
        quantile: share of positives that local mining keeps.
        cutoff: least distance told apart by distance_weighted.
        upper_cutoff: distance from which distance_weighted draws no negatives.
        key: random key of distance_weighted.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` (mined) triplets.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Schroff et al. 2015, FaceNet (squared_hinge, semi_hard); Hermans et al. 2017, In Defense of the
    Triplet Loss (batch_hard, softplus, mean over the active); Hoffer & Ailon 2015 (ratio); Wu et al. 2017
    (distance_weighted); Xuan et al. 2020 (easy_positive); Shah 2017 (soft, ratio_original, local,
    original_semi_hard).
    """
    x, y, r = checks.batch(embeddings, labels, references, reference_labels, reference_mask, axis_name)
    checks.choice("formula", formula, FORMULAS)
    checks.choice("mining", mining, miners.MINING)
    checks.choice("distance", distance, DISTANCES)
    checks.number("margin", margin, minimum=0.0)
    checks.number("quantile", quantile, minimum=0.0)
    checks.number("cutoff", cutoff, above=0.0)
    checks.number("upper_cutoff", upper_cutoff, above=0.0)
    checks.block_size(block_size)
    if mining == "distance_weighted" and key is None:
        raise ValueError("key must be given (jax.random.key) for mining distance_weighted")
    if mining != "distance_weighted":
        key = None
    choice = Choice(formula, mining, distance, r is None)
    options = {"margin": margin, "quantile": quantile, "cutoff": cutoff, "upper_cutoff": upper_cutoff}
    return _triplet(x, y, r, options, key, choice=choice, block_size=block_size, axis_name=axis_name)


@partial(jax.jit, static_argnames=("choice", "block_size", "axis_name"))
@sharding.divided(2)
def _triplet(
    x: Array,
    labels: Array,
    references: blocks.References | None,
    options: dict[str, Array],
    key: Array | None,
    *,
    choice: Choice,
    block_size: int | None,
    axis_name: str | None,
) -> tuple[Array, dict[str, Array]]:
    blockwise = partial(_blockwise, choice=choice, block_size=block_size, axis_name=axis_name)
    if choice.mining not in sorted_sweep.MINING:
        sums = blockwise(x, labels, references, options, key)
    else:
        in_order = partial(
            sorted_sweep.triplets,
            formula=choice.formula,
            mining=choice.mining,
            distance=choice.distance,
            block_size=block_size,
            axis_name=axis_name,
        )
        options = {name: options[name] for name in ("margin", "quantile")}
        sums = jax.lax.platform_dependent(
            x, labels, references, options, cpu=partial(blockwise, key=None), default=in_order
        )
    return blocks.ratio(sums.value, sums.active), {"active": sums.active, "valid": sums.mined}


def _blockwise(
    x: Array,
    labels: Array,
    references: blocks.References | None,
    options: dict[str, Array],
    key: Array | None,
    *,
    choice: Choice,
    block_size: int | None,
    axis_name: str | None,
) -> sweep.Sums:
    """Sums over the triplets of all devices, a block of anchors at a time: the CPU's way, and that of mining a few."""
    batch = blocks.batch(x, labels, references, axis_name)
    extra: Any = ()
    if key is not None:
        extra = {"seeds": selected.seeds(key, batch.anchors.ids)}
    elif choice.mining == "local_class":
        extra = _class_limits(choice, batch, options["quantile"], block_size)
    distance, power = _measure(choice)
    bound = largest(batch.x, batch.found, distance) ** power
    value, aux = blocks.sum_rows(
        partial(_rows, choice), batch, options, bound=bound, block_size=block_size, extra=extra
    )
    return sweep.Sums(value, aux["active"], aux["valid"])


def _measure(choice: Choice) -> tuple[str, int]:
    """What the formula is a function of: a distance, and the power to raise it to."""
    if choice.formula != "squared_hinge":
        return choice.distance, 1
    return ("squared", 1) if choice.distance == "euclidean" else (choice.distance, 2)


def _distances(choice: Choice, x: Array, found: Array) -> Array:
    distance, power = _measure(choice)
    return pairwise(x, found, distance) ** power


def _rows(
    choice: Choice, x: Array, found: Array, options: Any, block: blocks.Block
) -> tuple[Array, blocks.Aux]:
    distances = _distances(choice, x, found)
    sums = _sums(choice, distances, x, found, options, block)
    return sums.value, {"active": sums.active, "valid": sums.mined}


def _sums(
    choice: Choice, distances: Array, x: Array, found: Array, options: Any, block: blocks.Block
) -> sweep.Sums:
    formula, mining, distance, symmetric = choice
    margin = options["margin"]
    if mining == "hardest":
        return selected.hardest(formula, distance, distances, found, margin, block)
    if mining == "batch_hard":
        return selected.batch_hard(formula, distance, distances, found, margin, block)
    if mining == "distance_weighted":
        weights = selected.distance_weights(x, found, options, block)
        function = partial(selected.triplet_sums, formula)
        other = distance if formula == "soft" else None
        return selected.sampled(function, other, distances, found, options, weights, block)
    if mining not in sweep.WINDOWS:
        block = _with_positives(mining, distances, options["quantile"], block)
    kind = mining if mining in sweep.WINDOWS else "all"
    if formula == "soft":
        # Elsewhere (a, p, n) may be chosen and (p, a, n) not.
        symmetric = symmetric and mining == "all"
        return sweep.soft_triplets(kind, distance, symmetric, distances, found, margin, block)
    return sweep.triplets(formula, kind, distances, margin, block)


def _with_positives(mining: str, distances: Array, quantile: Array, block: blocks.Block) -> blocks.Block:
    anchors, candidates, (positive, negative), limits = block
    d = jax.lax.stop_gradient(distances)
    if mining == "local":
        chosen = miners.local(d, positive, anchors, candidates, quantile)
    elif mining == "local_class":
        chosen = positive & (jnp.maximum(d, 0.0) <= limits[:, None])
    else:
        column, exists = miners.nearest(d, positive)
        chosen = positive & (jnp.arange(d.shape[1])[None, :] == column[:, None])
        # The sweep visits one place only: the nearest positive's own.
        anchors = anchors._replace(start=column, size=exists.astype(jnp.int32))
        candidates = candidates._replace(order=jnp.arange(d.shape[1], dtype=jnp.int32))
    return block._replace(anchors=anchors, candidates=candidates, masks=miners.Masks(chosen, negative))


def _class_limits(choice: Choice, batch: blocks.Batch, quantile: Array, block_size: int | None) -> Array:
    """The quantile of all anchor-positive distances of each anchor's class, float32 [B].

    Bisects on the bits of the distance, which order as non-negative floats do: 31 passes give the exact value of
    one of the distances, whatever the class sizes, without keeping them.
    """
    batch = jax.lax.stop_gradient(batch._replace(axis_name=None))._replace(axis_name=batch.axis_name)

    def rows(x: Array, found: Array, options: Any, block: blocks.Block) -> Array:
        near = block.masks.positive & (jnp.maximum(_distances(choice, x, found), 0.0) <= block.extra[:, None])
        return miners.row_count(near)

    def within(limits: Array) -> Array:
        counts = blocks.map_rows(rows, batch, (), block_size=block_size, extra=limits)
        slots = jnp.where(batch.anchors.size > 0, batch.anchors.start, 0)
        sums = jax.ops.segment_sum(counts, slots, num_segments=batch.found.shape[0])
        return blocks.over_devices(sums, batch.axis_name)[slots]

    pairs = within(jnp.full(batch.x.shape[0], jnp.inf) + blocks.zeros_like(batch.x[:, 0]))
    wanted = miners.last_place(quantile, pairs) + 1

    def step(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = within(jax.lax.bitcast_convert_type(middle, jnp.float32)) >= wanted
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    low = 0 * batch.anchors.start
    high = low + jax.lax.bitcast_convert_type(jnp.float32(jnp.inf), jnp.int32)
    low, _ = jax.lax.fori_loop(0, 31, step, (low, high))
    # A hair more: the pass that uses the limit may round a distance differently than the one that found it.
    return jax.lax.bitcast_convert_type(low, jnp.float32) * (1.0 + 1e-6)
