"""Triplet losses of triplets that were chosen before the network saw them, and of given distances."""

from __future__ import annotations

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import Array

from jaxml.distances import rowwise
from jaxml.losses.kernels import checks, sharding
from jaxml.losses.kernels.blocks import sound
from jaxml.losses.kernels.devices import over_devices, vary
from jaxml.losses.kernels.formulas import FORMULAS
from jaxml.losses.kernels.reductions import count, ratio
from jaxml.losses.kernels.types import Aux


def input_triplets(
    embeddings: Array,
    labels: Array,
    *,
    formula: str = "hinge",
    margin: float | Array = 0.2,
    swap: bool = False,
    axis_name: str | None = None,
) -> tuple[Array, Aux]:
    """Triplet loss of the triplets in rows (0, 1, 2), (3, 4, 5), ...: anchor, positive, negative.

    With `swap` anchor and positive change places where that makes the loss larger: min(d_an, d_pn) stands for d_an.

    Reduction: mean over active triplets of all devices, as in `triplet_distances`.

    Args:
        embeddings: float [3 T, D].
        labels: int [3 T]; checked, but without effect, since the triplets are given.
        formula: one of those of `triplet`.
        margin: at least 0, in units of the distance (of its square for squared_hinge).
        swap: whether anchor and positive may change places, as above.
        axis_name: mapped axis the triplets are divided over; gradients are then to be averaged (pmean).

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` (all) triplets.

    Raises:
        ValueError: a number of rows that is no multiple of 3, or an argument of wrong shape, type or value, named in
            the message.

    Source: Shah 2017, Model A; Balntas et al. 2016, section 3.3 (swap).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> anchor, positive, negative = [0.0, 1.0], [0.6, 0.8], [1.0, 0.0]
        >>> embeddings, labels = jnp.array([anchor, positive, negative]), jnp.array([0, 0, 1])
        >>> loss, _ = losses.input_triplets(embeddings, labels, margin=0.5, swap=True)
        >>> print(f"{loss:.3f}")
        0.238
    """
    x, _ = checks.labelled(embeddings, labels)
    checks.choice("formula", formula, FORMULAS)
    checks.number("margin", margin, minimum=0.0)
    checks.choice("swap", swap, (False, True))
    return _mean(x, margin, formula=formula, swap=bool(swap), axis_name=axis_name)


@partial(jax.jit, static_argnames=("formula", "swap", "axis_name"))
@sharding.divided(1)
def _mean(x: Array, margin: Array, *, formula: str, swap: bool, axis_name: str | None) -> tuple[Array, Aux]:
    """`input_triplets` of float32 [3 T, D], in one compiled function."""
    if x.shape[0] % 3:
        raise ValueError(
            f"embeddings have {x.shape[0]} rows on each device, which are no triplets: take a multiple of 3"
        )
    a, p, n = jnp.moveaxis(x.reshape(-1, 3, x.shape[1]), 1, 0)
    d_ap, d_an, d_pn = rowwise(a, p), rowwise(a, n), rowwise(p, n)
    if swap:
        d_an, d_pn = jnp.minimum(d_an, d_pn), jnp.maximum(d_an, d_pn)
    value, aux = triplet_distances(d_ap, d_an, d_pn, formula=formula, margin=margin)
    sums = vary({"value": value * aux["active"], **aux}, axis_name)
    sums = jax.tree.map(partial(over_devices, axis_name=axis_name), sums)
    return ratio(sums.pop("value"), sums["active"]), sums


def triplet_distances(
    d_ap: Array,
    d_an: Array,
    d_pn: Array | None = None,
    *,
    formula: str = "hinge",
    margin: float | Array = 0.2,
) -> tuple[Array, Aux]:
    """Triplet loss of triplets whose distances are given.

    hinge: max(0, d_ap - d_an + margin); squared_hinge: max(0, d_ap^2 - d_an^2 + margin);
    soft: d_ap + log(e^{margin - d_an} + e^{margin - d_pn});
    ratio: 2 s^2 and ratio_original: 2 s, where s = e^{d_ap} / (e^{d_ap} + e^{d_an});
    softplus: log(1 + e^{d_ap - d_an}), softplus_margin: log(1 + e^{d_ap - d_an + margin}).

    Reduction: mean over active triplets: those above 0 for the hinges, all of them for the others; 0 if none.

    Args:
        d_ap: float [T], distance of anchor and positive.
        d_an: float [T], distance of anchor and negative.
        d_pn: float [T], distance of positive and negative; needed by soft only.
        formula: one of those of `triplet`.
        margin: used by the hinges, soft and softplus_margin, in units of the distance (squared for squared_hinge).

    Returns:
        float32 loss, and a dict with the numbers of active and of valid (all) triplets.

    Raises:
        ValueError: unknown formula, negative margin, missing d_pn, or shapes that differ.

    Source: Schroff et al. 2015, equation 2 (squared_hinge); Hoffer & Ailon 2015, section 2 (ratio, whose Torch
    code takes mean s^2); Hermans et al. 2017, section 2 (softplus); Shah 2017 (soft, ratio_original).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> loss, aux = losses.triplet_distances(jnp.array([0.5, 0.9]), jnp.array([1.0, 1.0]), margin=0.2)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} triplets")
        0.100, 1 of 2 triplets
    """
    checks.choice("formula", formula, FORMULAS)
    checks.number("margin", margin, minimum=0.0)
    chosen = FORMULAS[formula]
    if chosen.of_three and d_pn is None:
        raise ValueError(f"d_pn must be given for formula {formula}")
    distances = [jnp.asarray(d, jnp.float32) for d in (d_ap, d_an, d_pn) if d is not None]
    if any(d.shape != distances[0].shape for d in distances):
        raise ValueError(f"d_ap, d_an and d_pn must have one shape, got {[d.shape for d in distances]}")
    if chosen.squared:
        distances = [d * d for d in distances]
    # A factor of the distances too: otherwise the gradient of a triplet that is not active would be 0.
    factor = sound(reduce(jnp.maximum, (jnp.max(jnp.abs(d), initial=0.0) for d in distances)))
    ap, an, *pn = (d * factor for d in distances)
    value = chosen.of(ap, an, pn[0] if pn else None, jnp.asarray(margin, jnp.float32))
    valid = jnp.float32(value.size)
    active = count(value > 0) if chosen.kind == "hinge" else valid
    return factor * ratio(jnp.sum(value), active), {"active": active, "valid": valid}
