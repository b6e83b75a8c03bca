"""Classes divided over devices: all images against this device's classes, a block of classes at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxml.losses.kernels import checks
from jaxml.losses.kernels.block_loop import block_rows
from jaxml.losses.kernels.devices import vary, zeros_like
from jaxml.losses.kernels.measures import MEASURES
from jaxml.losses.kernels.reductions import NOTHING, number

Array = jax.Array

Apart = Callable[[Array, Array, Array, Array], tuple[Array, Array]]
"""apart(measured [b, K c], own [b, c], others [b, c], scale [b]) -> what is known of the own class, and
log(sum of e^logit) over the others, each [b]; a function of a module. The masks say which classes are which."""


class DividedClasses(NamedTuple):
    """Divide the classes of a loss over the devices of its `axis_name`, so that none holds or compares with them all.

    Each device holds the proxies or centres of classes / devices classes, in the order of the devices, and their
    `class_weights` where given. It compares the images of all devices with them; the sums over classes are added up
    over devices. The loss is the one of undivided classes, equal on all devices.

    Gradients of embeddings and of numbers are to be averaged (pmean), as with every loss. Gradients of the device's own
    proxies or centres, and of its class weights, are whole as they are, and are not to be averaged: other devices hold
    other classes. Under pmap, and shard_map with check_vma=False, take gradients inside of the mapped function.

    With a `rate` below 1 the sums run over classes that are drawn at each call: those of the images of all devices, and
    of the others of each device a share, rounded to a whole number. All other proxies have gradient 0.

    Raises:
        ValueError: by the loss, if there is no axis_name, or rate or key is not as described.

    Source: An et al. 2021, Partial FC: Training 10 Million Identities on a Single Machine, section 3; An et al. 2022,
    Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC, section 3.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]]])  # of one device
        >>> labels = jnp.array([[0, 0, 1, 1]])
        >>> proxies = jnp.array([[[0.0, 1.0], [1.0, 0.0]]])
        >>> def cosface(embeddings, labels, proxies):
        ...     divided = losses.DividedClasses()
        ...     return losses.cosface(embeddings, labels, proxies, scale=4.0, axis_name="batch", divided=divided)
        >>> loss, aux = jax.pmap(cosface, "batch", devices=jax.devices()[:1])(embeddings, labels, proxies)
        >>> print(f"{loss[0]:.3f}, {aux['active'][0]:.0f} of {aux['valid'][0]:.0f} images")
        0.299, 4 of 4 images
    """

    rate: float = 1.0
    """Share of the classes without an image in the batch that a device compares with; above 0, and at most 1."""
    key: Array | None = None
    """Random key of the draw, the same on all devices; needed where rate is below 1."""


def check(divided: DividedClasses | None, axis_name: str | None) -> None:
    """Raise a ValueError that names what is missing or out of range."""
    if divided is None:
        return
    if not isinstance(divided, DividedClasses):
        raise ValueError(f"divided must be losses.DividedClasses(...) or None, got {divided!r}")
    if axis_name is None:
        raise ValueError(
            "axis_name must be given, the mapped axis whose devices the classes are divided over"
        )
    if isinstance(divided.rate, jax.core.Tracer):
        raise ValueError(
            "rate must be a number that is known when the loss is traced: it says how much is drawn"
        )
    checks.number("rate", divided.rate, above=0.0, maximum=1.0)
    if divided.rate < 1 and divided.key is None:
        raise ValueError(f"key must be given (jax.random.key) for rate {divided.rate:g}")


def drawn(place: Array, classes: int, rate: float, key: Array | None, axis_name: str) -> Array:
    """This device's classes that images are compared with: those of the images, and a share of the others.

    Args:
        place: int32 [B], of each image's class among the device's classes; `classes` if another device holds it.
        classes: of the device.
        rate: of the classes without an image; 1 for all classes.
        key: the same on all devices, which draw differently.
        axis_name: of these devices.

    Returns:
        int32 [drawn], each class at most once; `classes`, which is none, fills up the shape, which no draw changes.
    """
    if rate == 1:
        return jnp.arange(classes, dtype=jnp.int32)
    assert key is not None
    with_image = jnp.zeros(classes, bool).at[place].set(True, mode="drop")
    uniform = jax.random.uniform(
        jax.random.fold_in(key, jax.lax.axis_index(axis_name)), (classes,), jnp.float32
    )
    order = jnp.argsort(jnp.where(with_image, -1.0, uniform)).astype(jnp.int32)
    needed = number(with_image)
    share = jnp.round(rate * (classes - needed).astype(jnp.float32)).astype(jnp.int32)
    most = min(classes, place.shape[0] + math.ceil(rate * classes))
    return jnp.where(jnp.arange(most) < needed + share, order[:most], classes)


def compare(
    apart: Apart,
    x: Array,
    points: Array,
    scale: Array,
    place: Array,
    columns: Array,
    *,
    block_size: int | None,
    axis_name: str,
) -> tuple[Array, Array]:
    """Compare images with this device's classes; memory is that of the arguments, and a block of logits.

    Args:
        apart: tells the own class from the others.
        x: float32 [B, D], the images of all devices.
        points: float32 [classes, K D], the proxies or centres of this device.
        scale: float32 [B], of the logits.
        place: int32 [B], as in `drawn`.
        columns: int32 [drawn], from `drawn`.
        block_size: classes at a time; chosen for the device if None.
        axis_name: mapped axis of the devices.

    Returns:
        What `apart` says of the own class, 0 where another device holds it, and the logarithm of the sum over this
        device's other classes; float32 [B] each.
    """
    (classes, width), count = points.shape, columns.shape[0]
    # A block holds its points beside their logits.
    logits = x.shape[0] * width // x.shape[1]
    size = min(block_size or block_rows(count, logits + width), count)
    columns = jnp.pad(columns, (0, -count % size), constant_values=classes).reshape(-1, size)
    return _compare(apart, *vary(((x, points, scale), place, columns), axis_name))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _compare(apart: Apart, floats: Any, place: Array, columns: Array) -> tuple[Array, Array]:
    """`compare` with the columns in blocks, int32 [blocks, size]."""
    x, points, scale = floats

    def step(sums: Any, columns: Array) -> Any:
        own, others = sums
        more, rest = _of_block(apart, place, columns, points.shape[0], x, _rows(points, columns), scale)
        return (own + more, jnp.logaddexp(others, rest)), None

    zero = zeros_like(scale)
    return jax.lax.scan(step, (zero, zero + NOTHING), columns)[0]


def _rows(points: Array, columns: Array) -> Array:
    """Points of some classes; zeros for a column beyond the last."""
    return points.at[columns].get(mode="fill", fill_value=0)


def _of_block(
    apart: Apart, place: Array, columns: Array, classes: int, x: Array, points: Array, scale: Array
) -> tuple[Array, Array]:
    points = jnp.moveaxis(
        points.reshape(len(columns), -1, x.shape[1]), 0, 1
    )  # as `compare_with_classes` orders them
    measured = MEASURES["cosine similarity"].between(x, points.reshape(-1, x.shape[1]))
    real = (columns < classes)[None, :]
    own = (place[:, None] == columns[None, :]) & real
    return apart(measured, own, ~own & real, scale)


def _forward(apart: Apart, floats: Any, place: Array, columns: Array) -> Any:
    own, others = _compare(apart, floats, place, columns)
    return (own, others), (floats, place, columns, others)


def _backward(apart: Apart, residuals: Any, cotangents: tuple[Array, Array]) -> Any:
    """Blocks are computed again; each class is in one of them, so that its gradient is written once and in place."""
    (x, points, scale), place, columns, others = residuals
    of_own, of_others = cotangents

    def step(gradients: Any, columns: Array) -> Any:
        of_x, of_points, of_scale = gradients
        of_block = partial(_of_block, apart, place, columns, points.shape[0])
        (_, rest), pullback = jax.vjp(of_block, x, _rows(points, columns), scale)
        # The derivative of log(sum of e^rest over blocks) along the rest of this block.
        more_x, of_rows, more_scale = pullback((of_own, of_others * jnp.exp(rest - others)))
        return (of_x + more_x, of_points.at[columns].set(of_rows, mode="drop"), of_scale + more_scale), None

    gradients, _ = jax.lax.scan(step, jax.tree.map(zeros_like, (x, points, scale)), columns)
    return gradients, None, None


_compare.defvjp(_forward, _backward)
