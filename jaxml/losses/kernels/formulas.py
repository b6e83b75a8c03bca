"""Formulas of the triplet losses: what one triplet costs, as a function of its distances.

A formula is a row of FORMULAS: its value, its slope and what kind it is. Its kind says which sweep computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, reduce
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Formula(NamedTuple):
    """What a triplet costs; elementwise functions of float32 arrays of any one shape."""

    value: Callable[..., Array]
    """value(d_ap - d_an), with the margin added where it `has_margin`; of three distances value(d_ap, d_an, d_pn,
    margin)."""
    slope: Callable[..., Any]
    """The derivative of the value; of three distances slope(d_ap, d_an, d_pn, margin): along d_ap, one number if it is
    the same for all triplets, and along -d_an. The first is the sum of those along -d_an and along -d_pn."""
    kind: Literal["hinge", "smooth"]
    """hinge: the slope is 1 above zero and 0 below, so that numbers of triplets are the gradient, and the triplets
    above zero are the active ones. smooth: any other function."""
    squared: bool = False
    """Whether distances are squared first."""
    has_margin: bool = True
    of_three: bool = False
    """Whether d_pn has a part in it, for which both forms of the sweep have a function of its own."""

    def of(self, d_ap: Array, d_an: Array, d_pn: Array | None, margin: Array) -> Array:
        """Values of triplets, in the shape of their distances, which are squared already where the formula asks for it.

        Args:
            d_ap: float32, anchor and positive.
            d_an: float32, anchor and negative.
            d_pn: float32, positive and negative; used by formulas of three distances only.
            margin: float32 [].
        """
        if self.of_three:
            return self.value(d_ap, d_an, d_pn, margin)
        return self.value(self.shifted(d_ap, margin) - d_an)

    def shifted(self, d_ap: Array, margin: Array) -> Array:
        """d_ap, with the margin added where the formula has one."""
        return d_ap + margin if self.has_margin else d_ap


class Options(NamedTuple):
    """Numbers of a triplet loss, float32 []; each formula and way of mining uses some of them."""

    margin: Any
    quantile: Any
    cutoff: Any
    upper_cutoff: Any


def log1p(e: Array) -> Array:
    """log(1 + e) for e in 0 .. 1, by the series of 2 atanh(e / (2 + e)) to full float32 accuracy; any shape.

    CPU compilers vectorise it; XLA's own log1p takes three times as long there.
    """
    z = e / (2.0 + e)
    w = z * z
    series = reduce(lambda total, n: 1.0 / n + w * total, (13, 11, 9, 7, 5, 3, 1), jnp.zeros_like(w))
    return 2.0 * z * series


def _positive_part(x: Array) -> Array:
    return jnp.where(x > 0, x, 0.0)


def _step(x: Array) -> Array:
    return (x > 0).astype(jnp.float32)


def _ratio(x: Array) -> Array:
    return 2.0 * jnp.square(jax.nn.sigmoid(x))


def _ratio_slope(x: Array) -> Array:
    return 2.0 * jax.nn.sigmoid(x) * _ratio_original_slope(x)


def _ratio_original(x: Array) -> Array:
    return 2.0 * jax.nn.sigmoid(x)


def _ratio_original_slope(x: Array) -> Array:
    return 2.0 * jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)


def _softplus(x: Array) -> Array:
    return jnp.maximum(x, 0.0) + log1p(jnp.exp(-jnp.abs(x)))


def _soft(d_ap: Array, d_an: Array, d_pn: Array, margin: Array) -> Array:
    """d_ap + log(e^{margin - d_an} + e^{margin - d_pn})."""
    return d_ap + margin - jnp.minimum(d_an, d_pn) + log1p(jnp.exp(-jnp.abs(d_an - d_pn)))


def _soft_slope(d_ap: Array, d_an: Array, d_pn: Array, margin: Array) -> tuple[float, Array]:
    """1 and e^{-d_an} / (e^{-d_an} + e^{-d_pn})."""
    e = jnp.exp(-jnp.abs(d_an - d_pn))
    return 1.0, jnp.where(d_an < d_pn, 1.0, e) / (1.0 + e)


@cache
def swapped(formula: Formula) -> Formula:
    """A formula of d_ap - d_an as one of d_ap - min(d_an, d_pn): of anchor and positive, the nearer to the negative."""

    def difference(d_ap: Array, d_an: Array, d_pn: Array, margin: Array) -> Array:
        return formula.shifted(d_ap, margin) - jnp.minimum(d_an, d_pn)

    def value(*args: Array) -> Array:
        return formula.value(difference(*args))

    def slope(d_ap: Array, d_an: Array, d_pn: Array, margin: Array) -> tuple[Array, Array]:
        whole = formula.slope(difference(d_ap, d_an, d_pn, margin))
        # Half of it where both are as near, as the derivative of a minimum has it.
        return whole, whole * jnp.where(d_an < d_pn, 1.0, jnp.where(d_an > d_pn, 0.0, 0.5))

    return formula._replace(value=value, slope=slope, of_three=True)


FORMULAS: dict[str, Formula] = {
    "hinge": Formula(_positive_part, _step, "hinge"),
    "squared_hinge": Formula(_positive_part, _step, "hinge", squared=True),
    "ratio": Formula(_ratio, _ratio_slope, "smooth", has_margin=False),
    "ratio_original": Formula(_ratio_original, _ratio_original_slope, "smooth", has_margin=False),
    "softplus": Formula(_softplus, jax.nn.sigmoid, "smooth", has_margin=False),
    "softplus_margin": Formula(_softplus, jax.nn.sigmoid, "smooth"),
    "soft": Formula(_soft, _soft_slope, "smooth", of_three=True),
}
"""All formulas of `jaxml.losses.triplet`, which documents them."""
