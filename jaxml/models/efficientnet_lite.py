"""EfficientNet-Lite (Tan & Le 2019, and TensorFlow's `lite` variant of 2020); layers are named as in timm."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxml.models.depthwise import DepthwiseConv
from jaxml.models.layers import BatchNorm, Conv, relu6

Array = jax.Array


class Stage(NamedTuple):
    """A row of blocks; the first has the strides."""

    kernel: int
    strides: int
    expansion: int
    channels: int
    blocks: int


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)


def scaled(width: float, depth: float) -> list[Stage]:
    """The stages with `width` times the channels, to multiples of 8, and `depth` times the blocks, rounded up.

    The first and the last stage keep their number of blocks. Channels that would lose more than a tenth round up.
    """

    def channels(count: float) -> int:
        rounded = max(8, int(count + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * count else rounded + 8

    def blocks(stage: Stage) -> int:
        return stage.blocks if stage in (STAGES[0], STAGES[-1]) else math.ceil(depth * stage.blocks)

    return [
        stage._replace(channels=channels(width * stage.channels), blocks=blocks(stage)) for stage in STAGES
    ]


class Block(nn.Module):
    """Inverted residual (Sandler et al. 2018), [b, H, W, C] -> [b, H/strides, W/strides, channels].

    A 1x1 convolution to `expansion` times the channels, a depthwise one, and a 1x1 one to `channels` without ReLU6.
    With expansion 1 the first is left out. The input is added where it has the output's shape.
    """

    kernel: int
    strides: int
    expansion: int
    channels: int
    train: bool
    frozen: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, H, W, C] -> [b, H/strides, W/strides, channels]."""
        pointwise = partial(Conv, kernel_size=(1, 1), use_bias=False, dtype=self.dtype)
        norm = partial(BatchNorm, self.frozen, self.axis_name, 1e-3, self.dtype)
        depthwise = DepthwiseConv((self.kernel, self.kernel), self.strides, self.dtype, name="conv_dw")
        if self.expansion == 1:
            y = relu6(norm(name="bn1")(depthwise(x), self.train))
            y = norm(name="bn2")(pointwise(self.channels, name="conv_pw")(y), self.train)
        else:
            y = pointwise(self.expansion * x.shape[-1], name="conv_pw")(x)
            y = relu6(norm(name="bn1")(y, self.train))
            y = relu6(norm(name="bn2")(depthwise(y), self.train))
            y = norm(name="bn3")(pointwise(self.channels, name="conv_pwl")(y), self.train)
        return x + y if x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """Feature map of EfficientNet-Lite, [b, H, W, 3] -> [b, H/32, W/32, 1280], sizes rounded up.

    Padding is TensorFlow's SAME: with stride 2, a row or column more at the end than at the beginning. Blocks are not
    dropped in training.
    """

    width: float
    depth: float
    frozen: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool, keys: Array | None = None) -> Array:
        """Feature map of normalised images [b, H, W, 3]; there is no dropout, so `keys` are not used."""
        del keys
        norm = partial(BatchNorm, self.frozen, self.axis_name, 1e-3, self.dtype)
        x = Conv(32, (3, 3), 2, "SAME", use_bias=False, dtype=self.dtype, name="conv_stem")(x)
        x = relu6(norm(name="bn1")(x, train))
        block = nn.remat(Block) if self.remat else Block
        for number, stage in enumerate(scaled(self.width, self.depth)):
            for index in range(stage.blocks):
                strides = stage.strides if index == 0 else 1
                sizes = (stage.kernel, strides, stage.expansion, stage.channels)
                name = f"blocks_{number}_{index}"
                x = block(*sizes, train, self.frozen, self.axis_name, self.dtype, name=name)(x)
        x = Conv(1280, (1, 1), use_bias=False, dtype=self.dtype, name="conv_head")(x)
        return relu6(norm(name="bn2")(x, train))


_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_INNER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_INNER_WITHOUT_EXPANSION = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def timm_name(name: str, depth: float) -> str:
    """timm's name of an array that the package efficientnet-lite-pytorch names; any other stays as it is.

    Example:
        >>> timm_name("_blocks.2._depthwise_conv.weight", depth=1.0)
        'blocks.1.1.conv_dw.weight'
    """
    layer, dot, kind = name.rpartition(".")
    inner = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer)
    places = [(i, j) for i, stage in enumerate(scaled(1.0, depth)) for j in range(stage.blocks)]
    if inner is None:
        layer = _OUTER.get(layer, layer)
    elif int(inner[1]) < len(places):
        stage, index = places[int(inner[1])]
        names = _INNER_WITHOUT_EXPANSION if STAGES[stage].expansion == 1 else _INNER
        layer = f"blocks.{stage}.{index}.{names.get(inner[2], inner[2])}"
    return layer + dot + kind
