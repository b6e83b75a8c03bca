"""Depthwise convolution: each channel has a kernel of its own."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxml.models.layers import HE_NORMAL, same_padding

Array = jax.Array


class DepthwiseConv(nn.Module):
    """Convolution of each channel by itself, [b, H, W, C] -> [b, ceil(H/strides), ceil(W/strides), C], without bias.

    Zero padding is TensorFlow's SAME. The parameter is `kernel` [h, w, 1, C].
    """

    kernel_size: tuple[int, int]
    strides: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, H, W, C] -> [b, ceil(H/strides), ceil(W/strides), C], computed in `dtype`."""
        shape = (*self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", HE_NORMAL, shape, jnp.float32).astype(self.dtype)
        return lax.platform_dependent(
            x.astype(self.dtype),
            kernel,
            cpu=partial(_sum_of_slices, strides=self.strides),
            default=partial(_grouped_convolution, strides=self.strides),
        )


def _grouped_convolution(x: Array, kernel: Array, strides: int) -> Array:
    """XLA's convolution, with as many groups as channels."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _sum_of_slices(x: Array, kernel: Array, strides: int) -> Array:
    """The same as a sum of shifted slices, for a CPU, where XLA's grouped convolution takes ten times as long."""
    h, w = kernel.shape[:2]
    padding = same_padding(x.shape[1:3], (h, w), strides)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    spans = [(x.shape[axis] - side) // strides * strides + 1 for axis, side in ((1, h), (2, w))]
    taps = [
        x[:, i : i + spans[0] : strides, j : j + spans[1] : strides] * kernel[i : i + 1, j : j + 1]
        for i in range(h)
        for j in range(w)
    ]
    return reduce(jnp.add, taps)
