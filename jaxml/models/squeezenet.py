"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016); layers are named as in torchvision."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxml.models.layers import Conv, max_pool, relu

Array = jax.Array

# torchvision's `features` from index 2 on: the (squeeze, expand) channels of a Fire module, or None for a pool.
_Plan = tuple[tuple[int, int] | None, ...]
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
PLAN_1_0: _Plan = (None, *_FIRES[:3], None, *_FIRES[3:7], None, *_FIRES[7:])
PLAN_1_1: _Plan = (None, *_FIRES[:2], None, *_FIRES[2:4], None, *_FIRES[4:])


class Fire(nn.Module):
    """Squeeze by a 1x1 convolution, expand by a 1x1 and a 3x3 one, [b, H, W, C] -> [b, H, W, 2 expand]."""

    squeeze: int
    expand: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, H, W, C] -> [b, H, W, 2 expand]: both expansions of the squeezed `x`, concatenated."""
        x = relu(Conv(self.squeeze, (1, 1), dtype=self.dtype, name="squeeze")(x))
        one = Conv(self.expand, (1, 1), dtype=self.dtype, name="expand1x1")(x)
        three = Conv(self.expand, (3, 3), padding=(1, 1), dtype=self.dtype, name="expand3x3")(x)
        return relu(jnp.concatenate([one, three], axis=-1))


class SqueezeNet(nn.Module):
    """Feature map of SqueezeNet, [b, H, W, 3] -> [b, H/16, W/16, 512]; it has no BatchNorm and no dropout."""

    stem: tuple[int, int]
    """Channels and kernel side of the first convolution."""
    plan: _Plan
    frozen: bool = False
    """Has no effect, and neither has `axis_name`."""
    axis_name: str | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool, keys: Array | None = None) -> Array:
        """Feature map of normalised images [b, H, W, 3]; `train` and `keys` have no effect."""
        del train, keys
        channels, side = self.stem
        fire = nn.remat(Fire) if self.remat else Fire
        x = relu(Conv(channels, (side, side), strides=2, dtype=self.dtype, name="features_0")(x))
        for index, sizes in enumerate(self.plan, start=2):
            if sizes is None:
                x = max_pool(x, window=3, stride=2, ceil=True)
            else:
                x = fire(*sizes, dtype=self.dtype, name=f"features_{index}")(x)
        return x
