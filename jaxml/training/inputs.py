"""What a step is fed with: batches drawn on the device, batches from the host, or lists of triplets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxml import distributed
from jaxml.data import categories, sampling
from jaxml.training import devices, input_triplets
from jaxml.training.learner import Metrics, TrainState
from jaxml.training.resident_steps import batch_shape, divided, resident_step, resident_steps
from jaxml.training.run import Run
from jaxml.training.step import train_step

Advance = Callable[[TrainState], tuple[TrainState, Metrics]]
"""Function state -> (state, metrics [n]) of n steps."""


def stepper(run: Run, first: int) -> Advance:
    """The function that makes `train.steps_per_call` steps at a time, from step `first` on."""
    config = run.config
    classes = run.images.classes(config.data.train_on)
    index = run.images.index
    category = config.data.category
    of_classes = categories.of_classes(category, index, classes) if category else None
    rows = run.images.rows(config.data.train_on)
    table = sampling.class_table(index.labels[rows], classes, of_classes)
    if config.train.mode == "input_triplets":
        return _from_host(run, input_triplets.batches(run, first))
    if not run.images.resident:
        return _from_host(run, _streamed(run, first, rows, table))
    return _on_device(run, divided(run.images.read, rows, run.devices), table)


def _on_device(run: Run, images: jax.Array, table: sampling.ClassTable) -> Advance:
    """Steps on batches drawn on the devices, from images that are `divided` among them."""
    data = (images, *devices.replicate((table, _teacher(run)), run.devices))
    count = run.config.train.steps_per_call
    parallel = partial(devices.parallel, in_axes=(None, 0, None, None), devices=run.devices)
    if run.devices[0].platform != "cpu":
        call = parallel(partial(resident_steps, run.learner, count))
        return lambda state: call(state, *data)
    # XLA's CPU convolutions are several times slower inside a loop, and a call costs a CPU nothing.
    step = parallel(partial(resident_step, run.learner))

    def single_steps(state: TrainState) -> tuple[TrainState, Metrics]:
        rows = []
        for _ in range(count):
            state, metrics = step(state, *data)
            rows.append(jax.device_get(metrics))
        return state, jax.tree.map(lambda *values: np.stack(values), *rows)

    return single_steps


def _from_host(run: Run, batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> Advance:
    """Steps on batches (pixels uint8 [b, S, S, 3], labels int [b]), b of them this process's share."""
    step = partial(train_step, run.learner)
    call = devices.parallel(step, in_axes=(None, 0, 0, None), devices=run.devices)
    teacher = devices.replicate(_teacher(run), run.devices)

    def advance(state: TrainState) -> tuple[TrainState, Metrics]:
        # Steps queue up on an accelerator: it computes one while the next one's pixels are on their way.
        shares = [devices.divide(x, run.devices) for x in next(batches)]
        state, metrics = call(state, *shares, teacher)
        return state, {name: value[None] for name, value in metrics.items()}

    return advance


def _teacher(run: Run) -> Any:
    """The variables of the teacher's network; none without a teacher."""
    return run.teacher.variables if run.teacher else ()


def _streamed(
    run: Run, first: int, rows: np.ndarray, table: sampling.ClassTable
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches (pixels uint8 [b, S, S, 3], labels int [b]) of the steps from `first` on, of images in `rows` int [R]."""
    config = run.config
    shape = batch_shape(config.data)
    draw = jax.jit(lambda step: sampling.sample(config.train.seed, step, table, *shape))
    drawn: list[np.ndarray] = []

    def batches() -> Iterator[np.ndarray]:
        for step in range(first, config.train.steps):
            indices, labels = map(distributed.share, jax.device_get(draw(step)))
            drawn.append(labels)
            yield rows[indices]

    # Pixels are read ahead of the steps, so that several batches of labels may wait for theirs.
    for pixels in run.images.read(batches()):
        yield pixels, drawn.pop(0)
