"""Arrays of sorted rows, rolled: the entry of row i + j at row i, cut out without an index."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxml.losses.kernels.ring import from_next, from_previous

Array = jax.Array


class Rolled:
    """An array [..., L] in a row with what lies beyond its ends, which its rolled forms are cut from.

    Beyond the ends of all rows lie the same rows again, whose entries are not used. Beyond those of a part, in a ring
    of devices, lie the rows of the devices before and after this one.
    """

    def __init__(self, a: Array, ring: str | None):
        self._count, self._whole = a.shape[-1], ring is None
        self._all = jnp.concatenate([a, a] if ring is None else neighbours(a, ring), axis=-1)

    def __call__(self, by: Array) -> Array:
        """Entry i + by at i, [..., L]; in a ring -L <= by <= L."""
        first = self._count + by
        if self._whole:
            first = jnp.where(by < 0, first, by)
        return lax.dynamic_slice_in_dim(self._all, first, self._count, self._all.ndim - 1)


def neighbours(a: Array, ring: str) -> list[Array]:
    """The array of the device before this one, of this one and of the next."""
    return [from_previous(a, ring), a, from_next(a, ring)]
