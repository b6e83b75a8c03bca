"""Random crop, flip, colour and normalisation in JAX, inside the training step, for both input paths."""

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
    """Pixels `low`, `high` (int32 [size]) and the share of `high` (float32 [size]) at the centres of `size` cells."""
    cell = jnp.arange(size, dtype=jnp.float32)
    # Mirrored here: reversing index vectors instead made the gathers below six times slower on CPU.
    cell = jnp.where(mirrored, size - 1 - cell, cell)
    centre = jnp.clip(start + (cell + 0.5) * (extent / size) - 0.5, 0.0, side - 1.0)
    low = jnp.floor(centre).astype(jnp.int32)
    return low, jnp.minimum(low + 1, side - 1), centre - low.astype(jnp.float32)


def _resize(image: Array, rows: _Places, columns: _Places) -> Array:
    """Linear interpolation of one image uint8 [S, S, 3] at `rows` and `columns`: float32 in 0 .. 1."""
    return lax.platform_dependent(image, rows, columns, tpu=_by_products, default=_by_gathers) / 255


def _by_gathers(image: Array, rows: _Places, columns: _Places) -> Array:
    """Two gathers for each axis: on a CPU ten times as fast as products."""
    take = partial(jnp.take, mode="clip")  # in bounds anyway; checks would cost as much as the gather
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
    """Products with a matrix of weights for each axis: a TPU gathers one index after another."""
    cell = jnp.arange(image.shape[0])[None, :]

    def weights(low: Array, high: Array, share: Array) -> Array:
        at_low, at_high = cell == low[:, None], cell == high[:, None]
        return jnp.where(at_low, 1 - share[:, None], 0) + jnp.where(at_high, share[:, None], 0)

    # Weights rounded to bfloat16, the default, would move pixels by up to 1.4 of 255.
    product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    image = product("ir,rcx->icx", weights(*rows), image.astype(jnp.float32))
    return product("jc,icx->ijx", weights(*columns), image)


def _crop(image: Array, key: Array, *, size: int, crop_area: tuple[float, float], flip: bool) -> Array:
    """Random resized crop of one image [S, S, 3], mirrored half of the time."""
    area_key, aspect_key, top_key, left_key, flip_key = jax.random.split(key, 5)
    side = image.shape[0]
    area = jax.random.uniform(area_key, minval=crop_area[0], maxval=crop_area[1])
    # An aspect beyond 1 / area would not fit into the image: the range narrows, so that the area stays exact.
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
    """Random saturation, contrast, brightness, each by a factor in 1 - strength .. 1 + strength."""
    saturation, contrast, brightness = jax.random.uniform(key, (3,), minval=1 - strength, maxval=1 + strength)
    grey = jnp.sum(image * jnp.asarray(GREY).reshape(1, 1, 3), axis=-1, keepdims=True)
    image = grey + saturation * (image - grey)
    image = brightness * (jnp.mean(grey) + contrast * (image - jnp.mean(grey)))
    return jnp.clip(image, 0.0, 1.0)


def _normalize(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    shape = (1, 1, 1, 3)
    return (images - jnp.asarray(mean, jnp.float32).reshape(shape)) / jnp.asarray(std, jnp.float32).reshape(
        shape
    )


def _check(images: Any, size: Any, mean: Any, std: Any) -> None:
    form = "uint8 pixels [b, S, S, 3]"
    found = images if isinstance(images, jax.Array) else arguments.array("images", images, form)
    if found.ndim != 4 or found.shape[1] != found.shape[2] or found.shape[3] != 3 or found.dtype != np.uint8:
        raise ValueError(f"images must be {form}, got {found.dtype} {found.shape}")
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
    """Random resized crop, mirror, colour jitter and normalisation, each image by its own key.

    The crop's area is uniform in `crop_area` (share of the image), its aspect log-uniform in 3/4 .. 4/3 as far
    as it fits, its place uniform (Szegedy et al. 2015, section 6); linear interpolation without antialiasing,
    so crops should not be over twice `size`. `mean` and `std` are for pixels in 0 .. 1.

    images: uint8 [b, S, S, 3]; keys: PRNG keys [b]. Returns float32 [b, size, size, 3]. An image's result
    depends on its key alone, not on the batch around it.
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


def center(images: Array, *, size: int, mean: Sequence[float], std: Sequence[float]) -> Array:
    """The whole image, resized and normalised, for evaluation: uint8 [b, S, S, 3] -> float32 [b, size, size, 3]."""
    _check(images, size, mean, std)
    side = images.shape[1]
    places = _places(jnp.float32(0), jnp.float32(side), size, side, jnp.bool_(False))
    return _normalize(jax.vmap(lambda image: _resize(image, places, places))(images), mean, std)
