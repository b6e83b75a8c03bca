"""ResNet-50 v1.5 (He et al. 2016); layers are named as in torchvision."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxml.models.layers import BatchNorm, Conv, max_pool

Array = jax.Array

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut, [b, H, W, C] -> [b, H/strides, W/strides, 4 channels]."""

    channels: int
    strides: int
    project: bool
    """Whether the shortcut is a 1x1 convolution instead of the input itself."""
    train: bool
    frozen: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, H, W, C] -> [b, H/strides, W/strides, 4 channels]; in v1.5 the 3x3 convolution has the stride."""
        conv = partial(Conv, use_bias=False, dtype=self.dtype)
        norm = partial(BatchNorm, self.frozen, self.axis_name, dtype=self.dtype)
        y = norm(name="bn1")(conv(self.channels, (1, 1), name="conv1")(x), self.train)
        y = conv(self.channels, (3, 3), self.strides, (1, 1), name="conv2")(nn.relu(y))
        y = norm(name="bn2")(y, self.train)
        y = norm(name="bn3")(conv(4 * self.channels, (1, 1), name="conv3")(nn.relu(y)), self.train)
        if self.project:
            x = conv(4 * self.channels, (1, 1), self.strides, name="downsample_0")(x)
            x = norm(name="downsample_1")(x, self.train)
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """Feature map of ResNet-50, [b, H, W, 3] -> [b, H/32, W/32, 2048]."""

    frozen: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool, keys: Array | None = None) -> Array:
        """Feature map of normalised images [b, H, W, 3]; there is no dropout, so `keys` are not used."""
        del keys
        options = {"frozen": self.frozen, "axis_name": self.axis_name, "dtype": self.dtype}
        x = Conv(64, (7, 7), 2, (3, 3), use_bias=False, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(BatchNorm(**options, name="bn1")(x, train))
        x = max_pool(x, window=3, stride=2, padding=1)
        block = nn.remat(Bottleneck) if self.remat else Bottleneck
        for stage, (channels, blocks) in enumerate(STAGES, start=1):
            for index in range(blocks):
                strides = 2 if index == 0 and stage > 1 else 1
                name = f"layer{stage}_{index}"
                x = block(channels, strides, index == 0, train, **options, name=name)(x)
        return x
