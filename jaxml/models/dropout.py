"""Dropout whose mask belongs to an image, wherever that is in a batch and however the batch is divided."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


def dropout(x: Array, rate: float, keys: Array | None, *, layer: int, channels: bool = False) -> Array:
    """Set elements or channels of `x` [b, ..., C] to 0 with probability `rate`, and divide the others by 1 - rate.

    The mask of image i depends only on `keys[i]`, of PRNG keys [b], and on the number of the layer, so it does not
    depend on how the batch is divided among devices.

    Raises:
        ValueError: `keys` is None, or there is not one key per image.
    """
    if keys is None:
        raise ValueError("keys: training with dropout needs one PRNG key per image, got None")
    if keys.shape[0] != x.shape[0]:
        raise ValueError(f"keys: one PRNG key per image, got {keys.shape[0]} keys for {x.shape[0]} images")
    shape = (1,) * (x.ndim - 2) + x.shape[-1:] if channels else x.shape[1:]

    def keep(key: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, layer), 1.0 - rate, shape)

    return jnp.where(jax.vmap(keep)(keys), x / (1.0 - rate), jnp.zeros((), x.dtype))


class Dropout(nn.Module):
    """`dropout` as a layer of a backbone, which frozen stages leave out."""

    rate: float
    layer: int
    """Its number, different from those of all others in the network."""
    channels: bool = False

    def __call__(self, x: Array, train: bool, keys: Array | None) -> Array:
        """`x` [b, ..., C] itself unless `train`; `keys` [b] are needed if so."""
        return dropout(x, self.rate, keys, layer=self.layer, channels=self.channels) if train else x
