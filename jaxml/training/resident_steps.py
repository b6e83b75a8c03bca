"""Training steps on batches that are drawn on the device, from images that stay in its memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxml.config import Data
from jaxml.data.sampling import ClassTable, sample
from jaxml.training.devices import AXIS
from jaxml.training.learner import Array, Learner, Metrics, TrainState
from jaxml.training.step import train_step

LINE = 128
"""Bytes in a line of `in_lines`."""


def resident_step(
    learner: Learner, state: TrainState, images: Array, table: ClassTable, teacher: Any = ()
) -> tuple[TrainState, Metrics]:
    """One step on a batch drawn on the device from all images, `in_lines` [N, n, LINE]; `teacher`: see `train_step`."""
    config = learner.config
    with jax.named_scope("input"):
        indices, labels = sample(config.train.seed, state.step, table, *batch_shape(config.data))
        share = indices.shape[0] // lax.axis_size(AXIS)
        start = lax.axis_index(AXIS) * share
        indices, labels = (lax.dynamic_slice_in_dim(x, start, share) for x in (indices, labels))
        drawn = draw(images, indices, config.data.stored_size)
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


def draw(lines: Array, indices: Array, side: int) -> Array:
    """The images of some indices [b], uint8 [b, side, side, 3], from all of them `in_lines`."""
    flat = lines[indices].reshape(indices.shape[0], -1)
    return flat[:, : side * side * 3].reshape(-1, side, side, 3)
