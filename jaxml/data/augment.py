"""Augmentation inside the training step: random crop, flip, colour jitter and normalisation, for both input paths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxml import arguments

Array = jax.Array
_Places = tuple[Array, Array, Array]

LOG_ASPECT = 0.2876820724517809  # log(4/3): the range of Szegedy et al. 2015, section 6
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def _places(start: Array, extent: Array, size: int, side: int, mirrored: Array) -> _Places:
    """Pixels `low` and `high` int32 [size] on both sides of `size` cells of an axis, and the share of `high` [size]."""
    cell = jnp.arange(size, dtype=jnp.float32)
    # Mirrored here, because reversed index vectors made the gathers below six times slower on a CPU.
    cell = jnp.where(mirrored, size - 1 - cell, cell)
    centre = jnp.clip(start + (cell + 0.5) * (extent / size) - 0.5, 0.0, side - 1.0)
    low = jnp.floor(centre).astype(jnp.int32)
    return low, jnp.minimum(low + 1, side - 1), centre - low.astype(jnp.float32)


def _resize(image: Array, rows: _Places, columns: _Places) -> Array:
    """Linear interpolation of one image uint8 [S, S, 3] at `rows` and `columns`: float32 [size, size, 3] in 0 .. 1."""
    return lax.platform_dependent(image, rows, columns, tpu=_by_products, default=_by_gathers) / 255


def _by_gathers(image: Array, rows: _Places, columns: _Places) -> Array:
    """The interpolation by two gathers for each axis, on a CPU ten times as fast as products; in 0 .. 255."""
    # All indices are in bounds, and a check would cost as much as the gather.
    take = partial(jnp.take, mode="clip")
    low, high, share = rows
    share = share.reshape(-1, 1, 1)
    image = (
        take(image, low, 0).astype(jnp.float32) * (1 - share)
        + take(image, high, 0).astype(jnp.float32) * share
    )
    low, high, share = columns
    share = share.reshape(1, -1, 1)
    return take(image, low, 1) * (1 - share) + take(image, high, 1) * share


def _by_products(image: Array, rows: _Places, columns: _Places) -> Array:
    """The interpolation by a matrix of weights for each axis, for a TPU, which gathers one index after another."""
    cell = jnp.arange(image.shape[0])[None, :]

    def weights(low: Array, high: Array, share: Array) -> Array:  # [size, S]
        at_low, at_high = cell == low[:, None], cell == high[:, None]
        return jnp.where(at_low, 1 - share[:, None], 0) + jnp.where(at_high, share[:, None], 0)

    # With weights rounded to bfloat16, the default, pixels would differ by up to 1.4 of 255.
    product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    image = product("ir,rcx->icx", weights(*rows), image.astype(jnp.float32))
    return product("jc,icx->ijx", weights(*columns), image)


def _crop(image: Array, key: Array, *, size: int, crop_area: tuple[float, float], flip: bool) -> Array:
    """Random resized crop of one image uint8 [S, S, 3], mirrored half of the time: float32 [size, size, 3]."""
    area_key, aspect_key, top_key, left_key, flip_key = jax.random.split(key, 5)
    side = image.shape[0]
    area = jax.random.uniform(area_key, minval=crop_area[0], maxval=crop_area[1])
    # An aspect ratio beyond 1 / area would not fit into the image; the range is narrowed to keep the area exact.
    widest = jnp.minimum(LOG_ASPECT, -jnp.log(area))
    half_aspect = 0.5 * widest * jax.random.uniform(aspect_key, minval=-1.0, maxval=1.0)
    height = side * jnp.sqrt(area) * jnp.exp(-half_aspect)
    width = side * jnp.sqrt(area) * jnp.exp(half_aspect)
    top = jax.random.uniform(top_key) * (side - height)
    left = jax.random.uniform(left_key) * (side - width)
    mirrored = jax.random.bernoulli(flip_key) if flip else jnp.bool_(False)
    rows = _places(top, height, size, side, jnp.bool_(False))
    columns = _places(left, width, size, side, mirrored)
    return _resize(image, rows, columns)


def _jitter(image: Array, key: Array, *, strength: float) -> Array:
    """Scale saturation, contrast and brightness of an image [s, s, 3] by factors in 1 - strength .. 1 + strength."""
    saturation, contrast, brightness = jax.random.uniform(key, (3,), minval=1 - strength, maxval=1 + strength)
    grey = jnp.sum(image * jnp.asarray(GREY).reshape(1, 1, 3), axis=-1, keepdims=True)
    image = grey + saturation * (image - grey)
    image = brightness * (jnp.mean(grey) + contrast * (image - jnp.mean(grey)))
    return jnp.clip(image, 0.0, 1.0)


def _normalize(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """(images - mean) / std by channel, for images [b, s, s, 3]."""
    shape = (1, 1, 1, 3)
    return (images - jnp.asarray(mean, jnp.float32).reshape(shape)) / jnp.asarray(std, jnp.float32).reshape(
        shape
    )


def _check(images: Any, size: Any, mean: Any, std: Any) -> None:
    form = "uint8 pixels [b, S, S, 3]"
    array = images if isinstance(images, jax.Array) else arguments.array("images", images, form)
    if array.ndim != 4 or array.shape[1] != array.shape[2] or array.shape[3] != 3 or array.dtype != np.uint8:
        raise ValueError(f"images must be {form}, got {array.dtype} {array.shape}")
    arguments.whole("size", size)
    arguments.numbers("mean", mean, 3)
    if not (arguments.numbers("std", std, 3) > 0).all():
        raise ValueError(f"std must be 3 numbers above 0, got {std!r}")


def augment(
    images: Array,
    keys: Array,
    *,
    size: int,
    crop_area: tuple[float, float],
    flip: bool,
    jitter: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> Array:
    """Random resized crop, flip, colour jitter and normalisation, each image by its own key.

    Args:
        images: uint8 [b, S, S, 3].
        keys: PRNG keys [b]; the result for an image depends on its own key alone.
        size: side of the result in pixels; crops are interpolated linearly without antialiasing, so they should not be
            larger than twice `size`.
        crop_area: range from which the area of a crop, as a share of the image, is drawn uniformly. The aspect ratio is
            log-uniform in 3/4 .. 4/3, as far as the crop fits, and the place uniform.
        flip: mirror half of the images.
        jitter: saturation, contrast and brightness are scaled by factors in 1 - jitter .. 1 + jitter.
        mean: of pixels in 0 .. 1, by channel; subtracted.
        std: by channel; the difference is divided by it.

    Returns:
        float32 [b, size, size, 3].

    Raises:
        ValueError: an argument has the wrong shape or type, or is outside its range.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", section 6.
    """
    _check(images, size, mean, std)
    if np.shape(keys)[:1] != images.shape[:1] or not jnp.issubdtype(
        jnp.asarray(keys).dtype, jax.dtypes.prng_key
    ):
        raise ValueError(f"keys must be one PRNG key for each of the {images.shape[0]} images")
    low, high = arguments.numbers("crop_area", crop_area, 2)
    if not 0 < low <= high <= 1:
        raise ValueError(f"crop_area must be two shares with 0 < low <= high <= 1, got {crop_area!r}")
    if arguments.numbers("jitter", [jitter], 1)[0] < 0:
        raise ValueError(f"jitter must be at least 0, got {jitter!r}")
    pairs = jax.vmap(jax.random.split)(keys)
    out = jax.vmap(partial(_crop, size=size, crop_area=crop_area, flip=flip))(images, pairs[:, 0])
    if jitter:
        out = jax.vmap(partial(_jitter, strength=jitter))(out, pairs[:, 1])
    return _normalize(out, mean, std)


def center(
    images: Array, *, size: int, mean: Sequence[float], std: Sequence[float], share: float = 1.0
) -> Array:
    """Resize and normalise images for evaluation: uint8 [b, S, S, 3] to float32 [b, size, size, 3].

    Of each image the central square whose side is `share` of S is taken. `mean` and `std` are by channel, of pixels in
    0 .. 1.

    Raises:
        ValueError: an argument has the wrong shape or type, or is outside its range.
    """
    _check(images, size, mean, std)
    if not 0 < arguments.numbers("share", [share], 1)[0] <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share!r}")
    side = images.shape[1]
    start, extent = jnp.float32((1 - share) * side / 2), jnp.float32(share * side)
    places = _places(start, extent, size, side, jnp.bool_(False))
    return _normalize(jax.vmap(lambda image: _resize(image, places, places))(images), mean, std)
