"""Random crop, flip, colour and normalisation in JAX, inside the training step, for both input paths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

Array = jax.Array

LOG_ASPECT = 0.2876820724517809  # log(4/3): the range of Szegedy et al. 2015, section 6
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def _resize(image: Array, size: int, top: Array, left: Array, height: Array, width: Array) -> Array:
    """Window of `image` [S, S, 3], in pixels, resized to [size, size, 3] by two small matrix products.

    Linear interpolation, antialiased where it shrinks. Exact products: the default on accelerators would
    round pixels to bfloat16.
    """
    scale = jnp.stack([size / height, size / width])
    shift = -jnp.stack([top, left]) * scale
    return jax.image.scale_and_translate(
        image, (size, size, 3), (0, 1), scale, shift, "linear", precision=jax.lax.Precision.HIGHEST
    )


def _normalize(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    mean_, std_ = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return (images - mean_.reshape(1, 1, 1, 3)) / std_.reshape(1, 1, 1, 3)


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
    crop = _resize(image, size, top, left, height, width)
    if flip:
        crop = jnp.where(jax.random.bernoulli(flip_key), crop[:, ::-1], crop)
    return crop


def _jitter(image: Array, key: Array, *, strength: float) -> Array:
    """Random brightness, contrast and saturation, each by a factor in 1 - strength .. 1 + strength."""
    brightness, contrast, saturation = jax.random.uniform(key, (3,), minval=1 - strength, maxval=1 + strength)
    grey = jnp.sum(image * jnp.asarray(GREY).reshape(1, 1, 3), axis=-1, keepdims=True)
    image = grey + saturation * (image - grey)
    image = brightness * (jnp.mean(grey) + contrast * (image - jnp.mean(grey)))
    return jnp.clip(image, 0.0, 1.0)


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
    as it fits, its place uniform (Szegedy et al. 2015, section 6). `mean` and `std` are for pixels in 0 .. 1.

    images: uint8 [b, S, S, 3]; keys: PRNG keys [b]. Returns float32 [b, size, size, 3]. An image's result
    depends on its key alone, not on the batch around it.
    """
    crop = jax.vmap(partial(_crop, size=size, crop_area=crop_area, flip=flip))
    both = jax.vmap(partial(jax.random.split, num=2))(keys)
    out = crop(images.astype(jnp.float32) / 255, both[:, 0])
    if jitter:
        out = jax.vmap(partial(_jitter, strength=jitter))(out, both[:, 1])
    return _normalize(out, mean, std)


def center(images: Array, *, size: int, mean: Sequence[float], std: Sequence[float]) -> Array:
    """The whole image, resized and normalised, for evaluation: uint8 [b, S, S, 3] -> float32 [b, size, size, 3]."""
    b, side = images.shape[:2]
    out = images.astype(jnp.float32) / 255
    if side != size:
        out = jax.image.resize(out, (b, size, size, 3), "linear", precision=jax.lax.Precision.HIGHEST)
    return _normalize(out, mean, std)
