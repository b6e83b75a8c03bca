"""Several losses at once: their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxml.losses.kernels import checks
from jaxml.losses.kernels.types import Aux, Loss
from jaxml.losses.signatures import keywords

NONE: Mapping[str, Any] = MappingProxyType({})


def multi(losses: Mapping[str, Loss], weights: Mapping[str, float | Array] = NONE) -> Loss:
    """Make of several losses and regularisers their weighted sum.

    sum_i w_i L_i.

    An option of a single loss is bound beforehand, with `functools.partial`. A keyword argument of the sum goes to
    every loss that takes it, so that `axis_name` reaches all of them, and `key` those that draw at random.

    Args:
        losses: functions of jaxml.losses, and what transforms make of them, by names of your choice.
        weights: numbers of at least 0 by the same names; 1 for those that are not named.

    Returns:
        A function (embeddings, labels, parameters={}, **options) -> (loss, aux): `parameters` holds what a loss takes
        third, by its name. aux has `active` and `valid` of the first loss, and of each one NAME_loss, not weighted, and
        its own aux as NAME_active and so on.

    Raises:
        ValueError: there is no loss, or a weight is below 0 or has the name of no loss; and, when the function is
            called, parameters have the name of no loss.
        TypeError: a keyword argument that none of the losses takes, when the function is called.

    Example:
        >>> import jax.numpy as jnp
        >>> from functools import partial
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> parts = {"triplet": partial(losses.triplet, margin=0.5), "proxies": losses.proxy_anchor}
        >>> loss = losses.multi(parts, weights={"proxies": 0.1})
        >>> value, aux = loss(embeddings, labels, {"proxies": jnp.array([[0.0, 1.0], [1.0, 0.0]])})
        >>> print(f"{value:.3f} = {aux['triplet_loss']:.3f} + 0.1 x {aux['proxies_loss']:.3f}")
        1.520 = 0.238 + 0.1 x 12.820
    """
    if not losses:
        raise ValueError("losses must be one or more functions by name, got none")
    _known("weights", weights, losses)
    for name, weight in weights.items():
        checks.number(f"weights[{name!r}]", weight, minimum=0.0)
    taken = {name: keywords(loss) for name, loss in losses.items()}

    def total(
        embeddings: Any, labels: Any, parameters: Mapping[str, Any] = NONE, **options: Any
    ) -> tuple[Array, Aux]:
        _known("parameters", parameters, losses)
        if lost := [option for option in options if not any(option in names for names in taken.values())]:
            raise TypeError(f"none of {', '.join(losses)} takes {', '.join(lost)}")
        value, aux = jnp.float32(0.0), Aux()
        for name, loss in losses.items():
            extra = (parameters[name],) if name in parameters else ()
            own = {option: given for option, given in options.items() if option in taken[name]}
            part, counts = loss(embeddings, labels, *extra, **own)
            value = value + jnp.asarray(weights.get(name, 1.0), jnp.float32) * part
            aux |= {f"{name}_loss": part, **{f"{name}_{key}": count for key, count in counts.items()}}
        first = next(iter(losses))
        return value, {"active": aux[f"{first}_active"], "valid": aux[f"{first}_valid"], **aux}

    return total


def _known(what: str, given: Mapping[str, Any], losses: Mapping[str, Loss]) -> None:
    """ValueError unless all names are those of losses."""
    if not isinstance(given, Mapping) or not set(given) <= set(losses):
        names = list(given) if isinstance(given, Mapping) else given
        raise ValueError(f"{what} must be a dict with some of the names {', '.join(losses)}, got {names!r}")
