"""Layers shared by the backbones: images are [b, H, W, C], parameters float32, padding mostly as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array
Initializer = jax.nn.initializers.Initializer
_Operation = Callable[[Array, Array], Array]

HE_NORMAL = jax.nn.initializers.he_normal()


class Conv(nn.Module):
    """2-D convolution [b, H, W, C] -> [b, H', W', features] with zero padding, computed in `dtype`.

    The padding is symmetric, or TensorFlow's SAME: H' = ceil(H / strides), with the odd row or column at the end.
    The parameters are `kernel` [h, w, C, features] and `bias` [features].
    """

    features: int
    kernel_size: tuple[int, int]
    strides: int = 1
    padding: tuple[int, int] | Literal["SAME"] = (0, 0)
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer = HE_NORMAL

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, H, W, C] -> [b, H', W', features].

        Raises:
            ValueError: the padded `x` is smaller than the kernel.
        """
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.padding == "SAME":
            padding = same_padding(x.shape[1:3], self.kernel_size, self.strides)
        else:
            padding = [(pad, pad) for pad in self.padding]
        for size, side, pads in zip(x.shape[1:3], self.kernel_size, padding, strict=True):
            _output_size(size, side, self.strides, sum(pads))
        convolve = partial(_convolve, strides=self.strides, padding=padding)
        if self.kernel_size == (1, 1) and padding == [(0, 0), (0, 0)]:
            # On a CPU, the product of matrices is twice as fast as XLA's convolution, gradients included, and on a TPU
            # it moves no more memory. On a GPU it moves up to 1.7 times as much, and with strides XLA may abort.
            product = partial(_product_of_pixels, strides=self.strides)
            y = lax.platform_dependent(x, kernel, cuda=convolve, default=product)
        elif self.strides == 1 and x.shape[-1] < 16:  # fewer channels than a CPU's vectors hold
            in_blocks = partial(_convolve_in_blocks, padding=padding)
            y = lax.platform_dependent(x, kernel, cpu=in_blocks, default=convolve)
        else:
            y = convolve(x, kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with statistics in float32 (Ioffe & Szegedy 2015).

    With `frozen`, the running statistics are used and never updated. With `axis_name`, the statistics of a batch are
    those of all devices on that axis. Running averages move by 0.1 per step, as in PyTorch; the running variance is
    biased, where PyTorch's is not.
    """

    frozen: bool = False
    axis_name: str | None = None
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Normalise `x` [..., C] by the statistics of the batch if `train`, else by the running ones."""
        norm = nn.BatchNorm(
            use_running_average=self.frozen or not train,
            momentum=0.9,
            epsilon=self.epsilon,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name="norm",
        )
        nn.share_scope(self, norm)
        return norm(x)


@jax.custom_jvp
def relu(x: Array) -> Array:
    """max(x, 0) of any shape, with gradient 0 where `x` is at most 0; to follow a convolution without BatchNorm."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # jax.nn.relu compares `x` with 0, so a step on a TPU keeps `x` for the backward pass, beside the result, which the
    # next layer keeps anyway. `y > 0` would not help, for XLA turns it into `x > 0`. After BatchNorm nothing is gained:
    # it keeps its own input and computes `x` from that again.
    y = relu(*primals)
    return y, jnp.where(y != 0, *tangents, 0)


@jax.custom_jvp
def relu6(x: Array) -> Array:
    """min(max(x, 0), 6) of any shape, with gradient 0 at 0, at 6 and beyond, as in PyTorch."""
    return jnp.clip(x, 0, 6)


@relu6.defjvp
def _relu6_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,) = primals
    return relu6(x), jnp.where((x > 0) & (x < 6), *tangents, 0)


def same_padding(size: tuple[int, ...], kernel: tuple[int, ...], strides: int) -> list[tuple[int, int]]:
    """TensorFlow's SAME padding (before, after) by axis of maps of `size`: outputs number ceil(size / strides)."""
    return lax.padtype_to_pads(size, kernel, [strides] * len(size), "SAME")


def max_pool(x: Array, *, window: int, stride: int, padding: int = 0, ceil: bool = False) -> Array:
    """Maximum over square windows, [b, H, W, C] -> [b, H', W', C]; `ceil` keeps a last, partial window.

    The gradient goes to the first of equal maxima, row by row, as in PyTorch. If windows neither overlap nor leave
    pixels over, equal maxima share it.
    """
    b, h, w, c = x.shape
    if window == stride and padding == h % stride == w % stride == 0:
        # XLA's own pooling would move a quarter of the memory on a TPU, but equal maxima would not share the gradient.
        return x.reshape(b, h // stride, stride, w // stride, stride, c).max(axis=(2, 4))
    sides = (window, stride, padding, ceil)
    return lax.platform_dependent(
        x,
        tpu=lambda x: _reduce_windows(x, lax.max, -jnp.inf, *sides),
        default=lambda x: _reduce_slices(x, _first_maximum, -jnp.inf, *sides),
    )


def avg_pool(x: Array, *, window: int, stride: int, padding: int = 0) -> Array:
    """Mean over square windows, [b, H, W, C] -> [b, H', W', C]; the zeros of the padding count, as in PyTorch."""
    sides = (window, stride, padding, False)
    total = lax.platform_dependent(
        x,
        tpu=lambda x: _reduce_windows(x, lax.add, 0.0, *sides),
        default=lambda x: _reduce_slices(x, jnp.add, 0.0, *sides),
    )
    return total / (window * window)


def _product_of_pixels(x: Array, kernel: Array, strides: int) -> Array:
    """The convolution of `x` [b, H, W, C] with a kernel [1, 1, C, features]."""
    return _product(x[:, ::strides, ::strides], kernel[0, 0])


def _product(x: Array, matrix: Array) -> Array:
    """`x` [..., C] @ `matrix` [C, D], as a product of two matrices.

    With more axes, XLA transposes `x` in memory for the gradient of `matrix`.
    """
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


def _convolve(x: Array, kernel: Array, strides: int, padding: list[tuple[int, int]]) -> Array:
    """XLA's convolution of `x` [b, H, W, C] with a kernel [h, w, C, features]."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=layout)


def _convolve_in_blocks(x: Array, kernel: Array, padding: list[tuple[int, int]]) -> Array:
    """`_convolve` with stride 1 as one matrix product, in blocks of 2 x 2 pixels; for few channels, on a CPU.

    The four outputs of a block see (h + 1) x (w + 1) pixels together, so there are a quarter as many patches as
    outputs, each a little larger, and four times the channels. If a side of the kernel or of the map is odd, zeros fill
    the last block.
    """
    h, w, channels, features = kernel.shape
    size = [x.shape[i] + sum(padding[i - 1]) - side + 1 for i, side in ((1, h), (2, w))]
    out = [-(-n // 2) for n in size]  # blocks of the output
    seen = [side // 2 + 1 for side in (h, w)]  # blocks of the input that one of them sees
    blocks = [n + m - 1 for n, m in zip(out, seen, strict=True)]  # of the input
    before = [pad for pad, _ in padding]
    after = [2 * n - x.shape[i] - pad for i, n, pad in zip((1, 2), blocks, before, strict=True)]
    x = jnp.pad(x, ((0, 0), *zip(before, after, strict=True), (0, 0)))
    # The pixels of a block become channels, ordered (column, row, channel). A concatenation is written to memory once;
    # a transposition, and all that `x` is computed from, would be repeated for each of the slices below.
    x = jnp.concatenate([x[:, ::2], x[:, 1::2]], axis=-1).reshape(-1, *blocks, 4 * channels)
    patches = [x[:, i : i + out[0], j : j + out[1]] for i in range(seen[0]) for j in range(seen[1])]

    def moved(i: int, j: int) -> Array:
        """The kernel of output (i, j) of a block, padded to all pixels that the block sees."""
        margins = [(shift, 2 * m - side - shift) for shift, m, side in ((i, seen[0], h), (j, seen[1], w))]
        full = jnp.pad(kernel, (*margins, (0, 0), (0, 0)))
        return full.reshape(seen[0], 2, seen[1], 2, channels, features).transpose(0, 2, 3, 1, 4, 5)

    kernels = jnp.stack([moved(i, j) for i in (0, 1) for j in (0, 1)], axis=-2)
    y = _product(jnp.concatenate(patches, axis=-1), kernels.reshape(-1, 4 * features))
    y = y.reshape(-1, *out, 2, 2, features).swapaxes(2, 3)
    return y.reshape(-1, 2 * out[0], 2 * out[1], features)[:, : size[0], : size[1]]


def _reduce_windows(
    x: Array, operation: _Operation, start: float, window: int, stride: int, padding: int, ceil: bool
) -> Array:
    """Reduce the windows of `x` [b, H, W, C] by XLA's own operation, for a TPU.

    There, slices of stride 2 would move four times the memory.
    """
    ends = [(padding, _rest(size, window, stride, padding, ceil)) for size in x.shape[1:3]]
    size, strides = (1, window, window, 1), (1, stride, stride, 1)
    start_of_type = np.array(start, x.dtype)
    return lax.reduce_window(x, start_of_type, operation, size, strides, ((0, 0), *ends, (0, 0)))


def _reduce_slices(
    x: Array, operation: _Operation, start: float, window: int, stride: int, padding: int, ceil: bool
) -> Array:
    """Reduce the windows of `x` [b, H, W, C] as an operation on shifted strided slices, columns first and then rows.

    The gradient of XLA's own maximum is a select-and-scatter, which takes several times as long on a CPU, and on a GPU
    a scatter, which moves twice the memory.
    """
    for axis in (2, 1):
        size = x.shape[axis]
        widths = [(0, 0, 0)] * x.ndim
        widths[axis] = (padding, _rest(size, window, stride, padding, ceil), 0)
        padded = lax.pad(x, jnp.array(start, x.dtype), widths)
        span = (_output_size(size, window, stride, 2 * padding, ceil) - 1) * stride + 1
        x = reduce(operation, [lax.slice_in_dim(padded, i, i + span, stride, axis) for i in range(window)])
    return x


def _output_size(size: int, window: int, stride: int, padding: int, ceil: bool = False) -> int:
    """Windows along a side of `size` pixels with `padding` on both sides together; ValueError if there is none."""
    span = size + padding - window
    if span < 0:
        raise ValueError(
            f"images: too small for this backbone, a window of {window} px meets a map of {size} px"
        )
    return (-(-span // stride) if ceil else span // stride) + 1


def _rest(size: int, window: int, stride: int, padding: int, ceil: bool) -> int:
    """Padding after the last pixel of a side, so that the last window is whole."""
    out = _output_size(size, window, stride, 2 * padding, ceil)
    return max((out - 1) * stride + window - size - padding, 0)


@jax.custom_jvp
def _first_maximum(a: Array, b: Array) -> Array:
    return jnp.maximum(a, b)


@_first_maximum.defjvp
def _first_maximum_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    a, b = primals
    # The rule of jnp.maximum gives each of two equal values half of the gradient, and takes longer.
    return jnp.maximum(a, b), jnp.where(a >= b, *tangents)
