"""What one triplet costs, as a function of its distances."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxml.losses.kernels import blocks, checks

Array = jax.Array


def log1p(e: Array) -> Array:
    """log(1 + e) for e in 0 .. 1, by the series of 2 atanh(e / (2 + e)) to full float32 accuracy.

    CPU compilers vectorise it; XLA's own log1p takes three times as long there.
    """
    z = e / (2.0 + e)
    w = z * z
    series = reduce(lambda total, n: 1.0 / n + w * total, (13, 11, 9, 7, 5, 3, 1), jnp.zeros_like(w))
    return 2.0 * z * series


class Formula(NamedTuple):
    """What a triplet costs as a function of x = d_ap - d_an, to which the hinges add the margin."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    """Derivative of the value."""
    squared: bool = False
    """Whether distances are squared first."""
    hinge: bool = False
    """Whether the slope is 1 above zero and 0 below."""


def _softplus(x: Array) -> Array:
    return jnp.maximum(x, 0.0) + log1p(jnp.exp(-jnp.abs(x)))


def _positive(x: Array) -> Array:
    return (x > 0).astype(jnp.float32)


def _ratio_slope(x: Array) -> Array:
    return 2.0 * jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)


OF_DIFFERENCE = {
    "hinge": Formula(lambda x: jnp.where(x > 0, x, 0.0), _positive, hinge=True),
    "squared_hinge": Formula(lambda x: jnp.where(x > 0, x, 0.0), _positive, squared=True, hinge=True),
    "ratio": Formula(
        lambda x: 2.0 * jnp.square(jax.nn.sigmoid(x)), lambda x: 2.0 * jax.nn.sigmoid(x) * _ratio_slope(x)
    ),
    "ratio_original": Formula(lambda x: 2.0 * jax.nn.sigmoid(x), _ratio_slope),
    "softplus": Formula(_softplus, jax.nn.sigmoid),
}

FORMULAS = (*OF_DIFFERENCE, "soft")
"""All formulas; soft needs the distance of positive and negative as well, see `soft`."""

HINGES = tuple(name for name, formula in OF_DIFFERENCE.items() if formula.hinge)


def soft(d_ap: Array, d_an: Array, d_pn: Array, margin: Array) -> Array:
    """d_ap + log(e^{margin - d_an} + e^{margin - d_pn})."""
    return d_ap + margin - jnp.minimum(d_an, d_pn) + log1p(jnp.exp(-jnp.abs(d_an - d_pn)))


def values(formula: str, d_ap: Array, d_an: Array, d_pn: Array | None, margin: Array) -> Array:
    """Value of triplets whose distances are already what the formula asks for (squared, for squared_hinge)."""
    if formula == "soft":
        assert d_pn is not None
        return soft(d_ap, d_an, d_pn, margin)
    x = d_ap - d_an
    return OF_DIFFERENCE[formula].value(x + margin if formula in HINGES else x)


def triplet_distances(
    d_ap: Array,
    d_an: Array,
    d_pn: Array | None = None,
    *,
    formula: str = "hinge",
    margin: float | Array = 0.2,
) -> tuple[Array, dict[str, Array]]:
    """Triplet loss of given distances: triplets at the network's input.

    hinge: max(0, d_ap - d_an + margin); squared_hinge: max(0, d_ap^2 - d_an^2 + margin);
    soft: d_ap + log(e^{margin - d_an} + e^{margin - d_pn});
    ratio: s^2 + (1 - (1 - s))^2 = 2 s^2 and ratio_original: 2 s, where s = e^{d_ap} / (e^{d_ap} + e^{d_an});
    softplus: log(1 + e^{d_ap - d_an}).

    Reduction: mean over active triplets: those above 0 for the hinges, all of them for the others; 0 if none.

    Args:
        d_ap: float [T], distance of anchor and positive.
        d_an: float [T], distance of anchor and negative.
        d_pn: float [T], distance of positive and negative; needed by soft only.
        formula: one of FORMULAS.
        margin: used by the hinges and soft, in units of the distance (of its square for squared_hinge).

    Returns:
        float32 loss, and a dict with the numbers of active and of valid (all) triplets.

    Raises:
        ValueError: unknown formula, negative margin, missing d_pn, or shapes that differ.

    Source: Schroff et al. 2015, equation 2 (squared_hinge); Hoffer & Ailon 2015, section 2 (ratio, whose Torch
    code takes mean s^2); Hermans et al. 2017, section 2 (softplus); Shah 2017 (soft, ratio_original).
    """
    checks.choice("formula", formula, FORMULAS)
    checks.number("margin", margin, minimum=0.0)
    if formula == "soft" and d_pn is None:
        raise ValueError("d_pn must be given for formula soft")
    distances = [jnp.asarray(d, jnp.float32) for d in (d_ap, d_an, d_pn) if d is not None]
    if any(d.shape != distances[0].shape for d in distances):
        raise ValueError(f"d_ap, d_an and d_pn must have one shape, got {[d.shape for d in distances]}")
    if formula == "squared_hinge":
        distances = [d * d for d in distances]
    # A factor of the distances too: the gradient of a triplet that counts for nothing would be 0 else.
    sound = blocks.sound(reduce(jnp.maximum, (jnp.max(jnp.abs(d), initial=0.0) for d in distances)))
    ap, an, *pn = (d * sound for d in distances)
    value = values(formula, ap, an, pn[0] if pn else None, jnp.asarray(margin, jnp.float32))
    valid = jnp.float32(value.size)
    active = jnp.sum((value > 0).astype(jnp.float32)) if formula in HINGES else valid
    return sound * jnp.sum(value) / jnp.maximum(active, 1.0), {"active": active, "valid": valid}
