"""The two small networks that Shah 2017, "Metric learning for clustering images", trained from scratch."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxml.models.dropout import Dropout
from jaxml.models.layers import BatchNorm, Conv, max_pool

Array = jax.Array

XAVIER_NORMAL = jax.nn.initializers.glorot_normal()


class Simple(nn.Module):
    """Two convolutions and a hidden layer, [b, H, W, 3] -> [b, 512].

    BatchNorm, convolution, BatchNorm, max pooling 2 x 2, ReLU, convolution, BatchNorm, channel dropout 0.3, max pooling
    2 x 2, ReLU, dense layer of 512, BatchNorm, ReLU, dropout 0.5. The shape of the dense layer's kernel depends on H
    and W.
    """

    kernel_sizes: tuple[int, int] = (5, 5)
    channels: tuple[int, int] = (10, 20)
    frozen: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32
    remat: bool = False
    """Has no effect: these networks are too small to gain from it."""

    @nn.compact
    def __call__(self, x: Array, train: bool, keys: Array | None = None) -> Array:
        """Features [b, 512] of normalised images [b, H, W, 3]; `keys` [b] are needed if `train`."""

        def norm(name: str, x: Array) -> Array:
            return BatchNorm(self.frozen, self.axis_name, dtype=self.dtype, name=name)(x, train)

        def conv(index: int, x: Array) -> Array:
            side = self.kernel_sizes[index]
            layer = Conv(
                self.channels[index],
                (side, side),
                dtype=self.dtype,
                kernel_init=XAVIER_NORMAL,
                name=f"conv{index + 1}",
            )
            return layer(x)

        x = norm("bn0", x)
        x = norm("bn1", conv(0, x))
        x = nn.relu(max_pool(x, window=2, stride=2))
        x = norm("bn2", conv(1, x))
        x = Dropout(0.3, layer=1, channels=True, name="dropout2")(x, train, keys)
        x = nn.relu(max_pool(x, window=2, stride=2))
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(512, dtype=self.dtype, kernel_init=XAVIER_NORMAL, name="fc1")(x)
        x = nn.relu(norm("bn3", x))
        return Dropout(0.5, layer=2, name="dropout3")(x, train, keys)
