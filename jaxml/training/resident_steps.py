"""Training steps on batches that are drawn on the devices, among whose memories the images are divided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxml import distributed
from jaxml.config import Data
from jaxml.data.sampling import ClassTable, sample
from jaxml.training.devices import AXIS, divide
from jaxml.training.learner import Array, Learner, Metrics, TrainState
from jaxml.training.step import train_step

LINE = 128
"""Bytes in a line of `in_lines`."""


def resident_step(
    learner: Learner, state: TrainState, images: Array, table: ClassTable, teacher: Any = ()
) -> tuple[TrainState, Metrics]:
    """One step on a batch that is drawn from all images, `divided`; `teacher`: see `train_step`.

    The images are this device's part of them, [m, n, LINE].
    """
    config = learner.config
    with jax.named_scope("input"):
        indices, labels = sample(config.train.seed, state.step, table, *batch_shape(config.data))
        drawn = draw(images, indices, config.data.stored_size)
        labels = lax.dynamic_slice_in_dim(labels, lax.axis_index(AXIS) * len(drawn), len(drawn))
    return train_step(learner, state, drawn, labels, teacher)


def batch_shape(config: Data) -> tuple[int, int, int]:
    """What `sample` is told of a batch: classes, images of each, and classes of each category."""
    return config.classes_per_batch, config.images_per_class, config.classes_per_category


def resident_steps(
    learner: Learner, count: int, state: TrainState, images: Array, table: ClassTable, teacher: Any = ()
) -> tuple[TrainState, Metrics]:
    """`count` resident steps in one call to the device; metrics [count].

    The number of turns is hidden from the compiler, so that the loop's body is the same program for every count and
    the steps are the same to the last bit.
    """

    def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, rows = carry
        state, metrics = resident_step(learner, state, images, table, teacher)
        return state, jax.tree.map(lambda row, x: row.at[i].set(x), rows, metrics)

    _, shapes = jax.eval_shape(partial(resident_step, learner), state, images, table, teacher)
    rows = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), shapes)
    return lax.fori_loop(0, lax.optimization_barrier(jnp.int32(count)), body, (state, rows))


def in_lines(images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, S, S, 3] as [N, n, LINE], zeros at the end, which is how the resident steps want them.

    A TPU keeps arrays in tiles whose last axis is 128. Of [N, S, S, 3] it would make a copy in another layout at every
    step before anything is drawn: 2.4 GB of traffic for 11,788 images of 160 x 160 px in place of 7 MB.
    """
    flat = images.reshape(len(images), -1)
    if empty := -flat.shape[1] % LINE:
        flat = np.pad(flat, ((0, 0), (0, empty)))
    return flat.reshape(len(flat), -1, LINE)


def divided(
    read: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]], rows: np.ndarray, devices: Sequence[Any]
) -> jax.Array:
    """The images of some rows int [R], as `read` returns them, divided among the devices: [devices, m, n, LINE].

    Each of the devices of all processes holds m of them, and this process reads those of its own `devices` alone. The
    last may repeat the first ones, where R is no multiple of the number of devices.
    """
    count = len(distributed.everywhere(devices))
    own = distributed.share(np.resize(rows, -(-len(rows) // count) * count))
    (images,) = read([own])
    return divide(in_lines(images), devices)


def draw(lines: Array, indices: Array, side: int) -> Array:
    """This device's part of a batch of images, uint8 [B / devices, side, side, 3].

    Each device lays those of its images that are in the batch into their places, among zeros, and sends every other
    device its part of the batch. A device then has the memory and the traffic of the whole batch's pixels. The sum that
    `psum_scatter` divides would be the same, but a TPU adds integers on all devices first, with twice the traffic.

    Args:
        lines: the images that this device holds, [m, n, LINE], see `divided`.
        indices: places int [B] of the batch's images among all that are divided, the same on all devices.
        side: S.
    """
    place = indices - lax.axis_index(AXIS) * len(lines)
    here = (place >= 0) & (place < len(lines))
    found = jnp.where(here[:, None, None], lines[jnp.clip(place, 0, len(lines) - 1)], jnp.uint8(0))
    sent = lax.all_to_all(found, AXIS, 0, 0, tiled=True)
    own = sent.reshape(lax.axis_size(AXIS), -1, *lines.shape[1:]).max(0)
    return own.reshape(len(own), -1)[:, : side * side * 3].reshape(-1, side, side, 3)
