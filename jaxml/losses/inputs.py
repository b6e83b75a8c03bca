"""Loss of triplets that were chosen before the network saw them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxml.distances import rowwise
from jaxml.losses.kernels import blocks, checks, sharding
from jaxml.losses.kernels.formulas import FORMULAS, triplet_distances

Array = jax.Array


def input_triplets(
    embeddings: Array,
    labels: Array,
    *,
    formula: str = "hinge",
    margin: float | Array = 0.2,
    swap: bool = False,
    axis_name: str | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Triplet loss of the triplets in rows (0, 1, 2), (3, 4, 5), ...: anchor, positive, negative.

    With `swap` anchor and positive change places where that makes the loss larger: min(d_an, d_pn) stands for d_an.

    Reduction: mean over active triplets of all devices, as in `triplet_distances`.

    Args:
        embeddings: float [3 T, D].
        labels: int [3 T]; not looked at, for the triplets are given.
        formula: one of FORMULAS.
        margin: at least 0, in units of the distance (of its square for squared_hinge).
        swap: choose the harder of the two anchors.
        axis_name: mapped axis the triplets are divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` (all) triplets.

    Raises:
        ValueError: rows that are no multiple of three, or an argument of wrong shape, type or value.

    Source: Shah 2017, Model A; Balntas et al. 2016, section 3.3 (swap).
    """
    x, _ = checks.labelled(embeddings, labels)
    checks.choice("formula", formula, FORMULAS)
    checks.number("margin", margin, minimum=0.0)
    return _mean(x, margin, formula=formula, swap=swap, axis_name=axis_name)


@partial(jax.jit, static_argnames=("formula", "swap", "axis_name"))
@sharding.divided(1)
def _mean(
    x: Array, margin: Array, *, formula: str, swap: bool, axis_name: str | None
) -> tuple[Array, dict[str, Array]]:
    if x.shape[0] % 3:
        raise ValueError(
            f"embeddings have {x.shape[0]} rows on each device, which are no triplets: take a multiple of 3"
        )
    a, p, n = jnp.moveaxis(x.reshape(-1, 3, x.shape[1]), 1, 0)
    d_ap, d_an, d_pn = rowwise(a, p), rowwise(a, n), rowwise(p, n)
    if swap:
        d_an, d_pn = jnp.minimum(d_an, d_pn), jnp.maximum(d_an, d_pn)
    value, aux = triplet_distances(d_ap, d_an, d_pn, formula=formula, margin=margin)
    sums = blocks.vary({"value": value * aux["active"], **aux}, axis_name)
    sums = jax.tree.map(partial(blocks.over_devices, axis_name=axis_name), sums)
    return blocks.ratio(sums.pop("value"), sums["active"]), sums
