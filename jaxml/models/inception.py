"""Inception v3 (Szegedy et al. 2016) without its auxiliary classifier; layers are named as in torchvision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxml.models.layers import BatchNorm, Conv, avg_pool, max_pool

Array = jax.Array


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm (epsilon 1e-3) and ReLU."""

    channels: int
    kernel_size: tuple[int, int]
    strides: int = 1
    padding: tuple[int, int] = (0, 0)
    frozen: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[b, H, W, C] -> [b, H', W', channels]."""
        x = Conv(
            self.channels,
            self.kernel_size,
            self.strides,
            self.padding,
            use_bias=False,
            dtype=self.dtype,
            name="conv",
        )(x)
        norm = BatchNorm(self.frozen, self.axis_name, epsilon=1e-3, dtype=self.dtype, name="bn")
        return nn.relu(norm(x, train))


class _Layer(Protocol):
    """Applies one ConvNorm of a block: with stride 1 it keeps the size of the map, with stride 2 it has no padding."""

    def __call__(
        self, name: str, channels: int, height: int, width: int, x: Array, strides: int = 1
    ) -> Array: ...


class Mixed(nn.Module):
    """Inception block: parallel branches, concatenated along the channels."""

    branches: Callable[[_Layer, Array], list[Array]]
    train: bool
    frozen: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, H, W, C] -> [b, H', W', sum of the branches' channels]."""

        def layer(name: str, channels: int, height: int, width: int, x: Array, strides: int = 1) -> Array:
            padding = (height // 2, width // 2) if strides == 1 else (0, 0)
            options = {"frozen": self.frozen, "axis_name": self.axis_name, "dtype": self.dtype}
            return ConvNorm(channels, (height, width), strides, padding, **options, name=name)(x, self.train)

        return jnp.concatenate(self.branches(layer, x), axis=-1)


def _mixed_5(conv: _Layer, x: Array, *, pool: int) -> list[Array]:
    y = conv("branch5x5_2", 64, 5, 5, conv("branch5x5_1", 48, 1, 1, x))
    z = conv("branch3x3dbl_2", 96, 3, 3, conv("branch3x3dbl_1", 64, 1, 1, x))
    z = conv("branch3x3dbl_3", 96, 3, 3, z)
    mean = avg_pool(x, window=3, stride=1, padding=1)
    return [conv("branch1x1", 64, 1, 1, x), y, z, conv("branch_pool", pool, 1, 1, mean)]


def _mixed_6a(conv: _Layer, x: Array) -> list[Array]:
    y = conv("branch3x3dbl_2", 96, 3, 3, conv("branch3x3dbl_1", 64, 1, 1, x))
    y = conv("branch3x3dbl_3", 96, 3, 3, y, strides=2)
    return [conv("branch3x3", 384, 3, 3, x, strides=2), y, max_pool(x, window=3, stride=2)]


def _mixed_6(conv: _Layer, x: Array, *, inner: int) -> list[Array]:
    y = conv("branch7x7_2", inner, 1, 7, conv("branch7x7_1", inner, 1, 1, x))
    y = conv("branch7x7_3", 192, 7, 1, y)
    z = conv("branch7x7dbl_2", inner, 7, 1, conv("branch7x7dbl_1", inner, 1, 1, x))
    z = conv("branch7x7dbl_4", inner, 7, 1, conv("branch7x7dbl_3", inner, 1, 7, z))
    z = conv("branch7x7dbl_5", 192, 1, 7, z)
    mean = avg_pool(x, window=3, stride=1, padding=1)
    return [conv("branch1x1", 192, 1, 1, x), y, z, conv("branch_pool", 192, 1, 1, mean)]


def _mixed_7a(conv: _Layer, x: Array) -> list[Array]:
    y = conv("branch3x3_2", 320, 3, 3, conv("branch3x3_1", 192, 1, 1, x), strides=2)
    z = conv("branch7x7x3_2", 192, 1, 7, conv("branch7x7x3_1", 192, 1, 1, x))
    z = conv("branch7x7x3_4", 192, 3, 3, conv("branch7x7x3_3", 192, 7, 1, z), strides=2)
    return [y, z, max_pool(x, window=3, stride=2)]


def _mixed_7(conv: _Layer, x: Array) -> list[Array]:
    y = conv("branch3x3_1", 384, 1, 1, x)
    z = conv("branch3x3dbl_2", 384, 3, 3, conv("branch3x3dbl_1", 448, 1, 1, x))
    return [
        conv("branch1x1", 320, 1, 1, x),
        conv("branch3x3_2a", 384, 1, 3, y),
        conv("branch3x3_2b", 384, 3, 1, y),
        conv("branch3x3dbl_3a", 384, 1, 3, z),
        conv("branch3x3dbl_3b", 384, 3, 1, z),
        conv("branch_pool", 192, 1, 1, avg_pool(x, window=3, stride=1, padding=1)),
    ]


BLOCKS: dict[str, Callable[[_Layer, Array], list[Array]]] = {
    "Mixed_5b": partial(_mixed_5, pool=32),
    "Mixed_5c": partial(_mixed_5, pool=64),
    "Mixed_5d": partial(_mixed_5, pool=64),
    "Mixed_6a": _mixed_6a,
    "Mixed_6b": partial(_mixed_6, inner=128),
    "Mixed_6c": partial(_mixed_6, inner=160),
    "Mixed_6d": partial(_mixed_6, inner=160),
    "Mixed_6e": partial(_mixed_6, inner=192),
    "Mixed_7a": _mixed_7a,
    "Mixed_7b": _mixed_7,
    "Mixed_7c": _mixed_7,
}


class InceptionV3(nn.Module):
    """Feature map of Inception v3, [b, H, W, 3] -> [b, about H/32, about W/32, 2048].

    Pixels are in -1 .. 1, as for the weights of Google and timm. torchvision's pretrained network takes images that are
    normalised by ImageNet's mean and deviation, and rescales them to the same (`transform_input`).
    """

    frozen: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool, keys: Array | None = None) -> Array:
        """Feature map of normalised images [b, H, W, 3]; `keys` are not used."""
        del keys
        options = {"frozen": self.frozen, "axis_name": self.axis_name, "dtype": self.dtype}
        x = ConvNorm(32, (3, 3), 2, **options, name="Conv2d_1a_3x3")(x, train)
        x = ConvNorm(32, (3, 3), **options, name="Conv2d_2a_3x3")(x, train)
        x = ConvNorm(64, (3, 3), 1, (1, 1), **options, name="Conv2d_2b_3x3")(x, train)
        x = max_pool(x, window=3, stride=2)
        x = ConvNorm(80, (1, 1), **options, name="Conv2d_3b_1x1")(x, train)
        x = ConvNorm(192, (3, 3), **options, name="Conv2d_4a_3x3")(x, train)
        x = max_pool(x, window=3, stride=2)
        block = nn.remat(Mixed) if self.remat else Mixed
        for name, branches in BLOCKS.items():
            x = block(branches, train, **options, name=name)(x)
        return x
