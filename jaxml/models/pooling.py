"""How a feature map becomes a vector: a new way is one module, one row of POOLING and one choice of `model.pooling`."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array

FLOOR = 1e-6
"""What activations are raised to before a power is taken."""


class Mean(nn.Module):
    """Mean over the map."""

    def __call__(self, x: Array) -> Array:
        """Float32 [b, h, w, C] -> [b, C]."""
        return x.mean(axis=(1, 2))


class MeanAndMaximum(nn.Module):
    """Sum of mean and maximum over the map (Kim et al. 2020, Proxy-Anchor)."""

    def __call__(self, x: Array) -> Array:
        """Float32 [b, h, w, C] -> [b, C]."""
        return x.mean(axis=(1, 2)) + x.max(axis=(1, 2))


class GeneralizedMean(nn.Module):
    """(mean over the map of max(x, 1e-6)^p)^(1/p), where p is learned and begins at 3.

    p = 1 is the mean, and p to infinity the maximum.

    Source: Radenović et al. 2019, "Fine-tuning CNN image retrieval with no human annotation", equation 3.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Float32 [b, h, w, C] -> [b, C]."""
        p = self.param("p", nn.initializers.constant(3.0), (), jnp.float32)
        # By logarithms, for a power of a large activation would overflow, and that of a small one vanish.
        powers = p * jnp.log(jnp.maximum(x, FLOOR))
        return jnp.exp(jax.nn.logsumexp(powers, axis=(1, 2), b=1 / (x.shape[1] * x.shape[2])) / p)


POOLING: dict[str, Callable[[], nn.Module]] = {
    "avg": Mean,
    "avg+max": MeanAndMaximum,
    "gem": GeneralizedMean,
}
"""The module of each `model.pooling`."""
