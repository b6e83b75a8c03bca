"""All triplets of a batch at once: never a cube, never a list of indices, no gather and no scatter on the way.

This is the sorted form of the sweep, which accelerators compute; `sweep` is the other one. The batch is sorted by
label, so that the positives of all anchors are rolled rows (`ordering`), and negatives are compared tile by tile with
limits that the positives set (`tiles`). Value and gradient come from the same sweep.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxml.distances import l2_normalize
from jaxml.losses.kernels import blocks, sorted_differences, sorted_soft
from jaxml.losses.kernels.blocks import References, Terms
from jaxml.losses.kernels.devices import gather, number_of_devices, over_devices, vary
from jaxml.losses.kernels.formulas import Formula, Options
from jaxml.losses.kernels.measures import MEASURES
from jaxml.losses.kernels.mining import Mining
from jaxml.losses.kernels.ordering import order
from jaxml.losses.kernels.ring import rows_at
from jaxml.losses.kernels.sorted_rows import Facts, Plan

Array = jax.Array


def terms(
    x: Array,
    labels: Array,
    references: References | None,
    options: Options,
    *,
    formula: Formula,
    mining: Mining,
    measure: str,
    block_size: int | None,
    axis_name: str | None,
    ring: bool = False,
) -> Terms:
    """Sums over the mined triplets of the anchors of all devices.

    Args:
        x: float32 [B, D].
        labels: int32 [B].
        references: candidates in place of the batch.
        options: `margin` and `quantile` are used.
        formula: a row of formulas.FORMULAS.
        mining: a row of mining.MINING that has a sorted form.
        measure: one of MEASURES that has a metric; the square of a distance where the formula asks for it.
        block_size: anchors in a tile; chosen for the device if None.
        axis_name: mapped axis the batch is divided over.
        ring: leave the rows divided over the devices, and pass them round (see `ring`); without references, and for
            formulas of d_ap - d_an.
    """
    cosine = measure.startswith("cosine")
    if cosine:
        x = l2_normalize(x)
    if ring and axis_name is not None:
        return _terms_in_ring(x, labels, options, Plan(formula, mining, measure, block_size, True, axis_name))
    count = x.shape[0]
    first = 0 if axis_name is None else lax.axis_index(axis_name) * count
    x, labels = gather((x, labels), axis_name)
    anchors = labels.shape[0]
    place = jnp.arange(anchors, dtype=jnp.int32)
    own = (place >= first) & (place < first + count)
    anchor = candidate = None
    if references is not None:
        r, there = references.embeddings, jnp.ones(references.labels.shape, bool)
        if references.mask is not None:
            there = references.mask
            # They are looked at nowhere, but a product of 0 and NaN is NaN.
            r = jnp.where(there[:, None], r, 0.0)
        r = l2_normalize(r) if cosine else r
        x, labels = jnp.concatenate([x, r]), jnp.concatenate([labels, references.labels])
        anchor = jnp.arange(labels.shape[0]) < anchors
        candidate = jnp.concatenate([jnp.zeros(anchors, bool), there])
        own = jnp.concatenate([own, jnp.zeros_like(there)])
    x, labels, own, anchor, candidate = vary((x, labels, own, anchor, candidate), axis_name)
    rows, group, start, end = order(labels)
    if formula.of_three:
        # Rows are divided, anchors or not: those in which an anchor's positive is found do a part of the work.
        part = -(-labels.shape[0] // number_of_devices(axis_name))
        mine = (0 if axis_name is None else lax.axis_index(axis_name)) * part + jnp.arange(
            part, dtype=jnp.int32
        )
    elif references is None and axis_name is not None:
        # Any division of the anchors will do: neighbours in sorted order lie side by side in memory.
        mine = first + jnp.arange(count, dtype=jnp.int32)
    elif references is None:
        mine = place
    else:
        (mine,) = jnp.nonzero(own[rows], size=count)
    if candidate is not None:
        anchor, candidate = anchor[rows], candidate[rows]
    facts = Facts(group, start, end, mine.astype(jnp.int32), anchor, candidate)
    plan = Plan(formula, mining, measure, block_size, references is None)
    return _over_devices(plan, x[rows], options, facts, axis_name)


def _terms_in_ring(x: Array, labels: Array, options: Options, plan: Plan) -> Terms:
    """`terms` of rows that stay divided: each device holds as many sorted rows as it has anchors."""
    assert plan.ring is not None
    axis_name, count = plan.ring, x.shape[0]
    rows, *numbers = order(gather(labels, axis_name))
    places = jnp.arange(rows.shape[0], dtype=jnp.int32)
    _, back = lax.sort((rows, places), num_keys=1)
    first = lax.axis_index(axis_name) * count
    rows, back, group, start, end = (
        lax.dynamic_slice_in_dim(a, first, count) for a in (rows, back, *numbers)
    )
    x = rows_at(x, rows, back, axis_name)
    facts = Facts(group, start, end, jnp.arange(count, dtype=jnp.int32), None, None)
    sums = _over_devices(plan, x, options, facts, axis_name)
    # The positives of a row must be on its own device, the one before or the one after.
    reached = lax.pmax(jnp.max(end - start), axis_name) <= count + 1
    return sums._replace(value=sums.value * jnp.where(reached, 1.0, jnp.nan))


def _over_devices(plan: Plan, x: Array, options: Options, facts: Facts, axis_name: str | None) -> Terms:
    """Sums over the anchors of all devices, of sorted rows, float32 [L, D]."""
    margin, quantile = vary(
        [jnp.asarray(o, jnp.float32) for o in (options.margin, options.quantile)], axis_name
    )
    sums = _terms(plan, x, margin, quantile, facts)
    sums = sums._replace(value=sums.value * blocks.sound(MEASURES[plan.measure].bound(x, x)))
    return jax.tree.map(partial(over_devices, axis_name=axis_name), sums)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _terms(plan: Plan, x: Array, margin: Array, quantile: Array, facts: Facts) -> Terms:
    """Sums over this device's anchors among sorted rows, float32 [L, D]."""
    return _forward(plan, x, margin, quantile, facts)[0]


def _forward(plan: Plan, x: Array, margin: Array, quantile: Array, facts: Facts) -> Any:
    compute = sorted_soft.compute if plan.formula.of_three else sorted_differences.compute
    sums, gradient, of_margin = compute(plan, x, margin, quantile, facts)
    return sums, (gradient, of_margin)


def _backward(plan: Plan, residuals: Any, cotangents: Terms) -> Any:
    gradient, of_margin = (r * cotangents.value for r in residuals)
    return gradient, of_margin, jnp.zeros_like(of_margin), None


_terms.defvjp(_forward, _backward)
