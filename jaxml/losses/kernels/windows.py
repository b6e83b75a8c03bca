"""Windows: at which distances negatives are mined, given the distance of the positive."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

Array = jax.Array


class Near(NamedTuple):
    """Distances of positives, float32 arrays of one shape."""

    distance: Array
    above: Array
    """What a greater distance exceeds: `distance`, or slightly more where equal distances may round differently."""
    below: Array
    """What a smaller distance falls short of: `distance`, or slightly less."""


Limits = tuple[Array | None, Array | None]
"""Lower and upper limit of d_an, both exclusive, in the shape of d_ap; None is no limit."""

Window = Callable[[Near, Array], Limits]
"""window(near, margin) -> limits, of d_ap and a float32 []."""


def anywhere(near: Near, margin: Array) -> Limits:
    """Every negative."""
    return None, None


def semi_hard(near: Near, margin: Array) -> Limits:
    """d_ap < d_an < d_ap + margin."""
    return near.above, near.distance + margin


def nearer_than_positive(near: Near, margin: Array) -> Limits:
    """d_an < d_ap."""
    return None, near.below
