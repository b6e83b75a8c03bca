"""Depthwise convolution: each channel has a kernel of its own."""

from __future__ import annotations

from functools import partial, reduce
from itertools import product
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
            _varying_as(x, kernel),
            cpu=partial(_sum_of_slices, strides=self.strides),
            default=partial(_grouped_convolution, strides=self.strides),
        )


def _varying_as(x: Array, kernel: Array) -> Array:
    """The kernel as each device's own copy, if `x` is each device's own: its gradient is then summed over devices.

    `shard_map` does so by itself, but not for the rule of a `custom_vjp`.
    """
    axes = jax.typeof(x).manual_axis_type.varying - jax.typeof(kernel).manual_axis_type.varying
    return lax.pcast(kernel, tuple(axes), to="varying")


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


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sum_of_slices(x: Array, kernel: Array, strides: int) -> Array:
    """The same as a sum of shifted slices, for a CPU, where XLA's grouped convolution takes ten times as long.

    Its gradients are written out, because those that JAX derives take several times as long: a sum of padded arrays,
    and a pass over memory for each tap of the kernel.
    """
    taps = _taps(x, kernel.shape, strides)
    return reduce(jnp.add, [pixels * kernel[i : i + 1, j : j + 1] for (i, j), pixels in taps.items()])


def _forward(x: Array, kernel: Array, strides: int) -> tuple[Array, tuple[Array, Array]]:
    return _sum_of_slices(x, kernel, strides), (x, kernel)


def _backward(strides: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return _gradient_of_input(dy, kernel, strides, x.shape), _gradient_of_kernel(dy, x, kernel, strides)


_sum_of_slices.defvjp(_forward, _backward)


def _taps(x: Array, kernel_shape: tuple[int, ...], strides: int) -> dict[tuple[int, int], Array]:
    """By place in the kernel, the pixels of the padded `x` that it meets, [b, H', W', C]."""
    h, w = kernel_shape[:2]
    x = jnp.pad(x, ((0, 0), *same_padding(x.shape[1:3], (h, w), strides), (0, 0)))
    down, across = ((x.shape[axis] - side) // strides * strides + 1 for axis, side in ((1, h), (2, w)))
    places = product(range(h), range(w))
    return {(i, j): x[:, i : i + down : strides, j : j + across : strides] for i, j in places}


def _gradient_of_kernel(dy: Array, x: Array, kernel: Array, strides: int) -> Array:
    """[h, w, 1, C]: for each tap the sum over all pixels of `dy` times the input that it met, in float32.

    All taps are summed by one loop over an image, which stays in the cache.
    """
    exact = jnp.promote_types(x.dtype, jnp.float32)
    dy = dy.astype(exact)
    taps = [pixels.astype(exact) * dy for pixels in _taps(x, kernel.shape, strides).values()]

    def add(a: list[Array], b: list[Array]) -> list[Array]:
        return [p + q for p, q in zip(a, b, strict=True)]

    by_image = lax.reduce(taps, [jnp.zeros((), exact)] * len(taps), add, (1, 2))
    return jnp.stack([tap.sum(0) for tap in by_image]).reshape(kernel.shape).astype(kernel.dtype)


def _gradient_of_input(dy: Array, kernel: Array, strides: int, shape: tuple[int, ...]) -> Array:
    """[b, H, W, C]: a sum of shifted slices of `dy` for the pixels of each remainder by `strides`.

    Pixel p, in a row or a column, and the place i of the kernel meet in output (p + padding before - i) / strides.
    """
    before = [pads[0] for pads in same_padding(shape[1:3], kernel.shape[:2], strides)]
    counts = [-(-size // strides) for size in shape[1:3]]  # pixels of a remainder
    margins = [
        (-((first - side + 1) // strides), (first + strides - 1) // strides)
        for first, side in zip(before, kernel.shape[:2], strict=True)
    ]
    dy = jnp.pad(dy, ((0, 0), *margins, (0, 0)))

    def meetings(axis: int, remainder: int) -> list[tuple[int, slice]]:
        """Places in the kernel that pixels of this remainder meet, each with the outputs where they do."""
        places = range((remainder + before[axis]) % strides, kernel.shape[axis], strides)
        starts = [margins[axis][0] + (remainder + before[axis] - i) // strides for i in places]
        return [(i, slice(start, start + counts[axis])) for i, start in zip(places, starts, strict=True)]

    def pixels(down: int, across: int) -> Array:
        """The gradient of the pixels with these remainders."""
        pairs = product(meetings(0, down), meetings(1, across))
        return reduce(jnp.add, [dy[:, p, q] * kernel[i : i + 1, j : j + 1] for (i, p), (j, q) in pairs])

    rows = [jnp.stack([pixels(i, j) for j in range(strides)], axis=3) for i in range(strides)]
    whole = jnp.stack(rows, axis=2).reshape(-1, *(strides * count for count in counts), shape[3])
    return whole[:, : shape[1], : shape[2]]
