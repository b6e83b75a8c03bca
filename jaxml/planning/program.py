"""Lowers the program of a training step for devices that may be absent, without data set or pretrained weights."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.config import Config
from jaxml.data.sampling import ClassTable
from jaxml.training import devices as on_devices
from jaxml.training.learner import create
from jaxml.training.resident_steps import LINE, resident_step, resident_steps
from jaxml.training.step import train_step
from jaxml.training.teacher import untrained

Shape = jax.ShapeDtypeStruct


def lower(config: Config, devices: list[Any], images: int, classes: int) -> jax.stages.Lowered:
    """One step of the run, as the training loop calls it, with so many images and classes to learn from.

    `train.steps_per_call` changes nothing here, for the body of its loop is this step.

    Raises:
        ValueError: the configuration cannot be trained, or its batch cannot be divided among the devices.
    """
    data, count = config.data, len(devices)
    batch = data.classes_per_batch * data.images_per_class
    if batch % count:
        raise ValueError(
            f"the batch of {batch} cannot be divided among {count} chips; give another --data.classes_per_batch"
        )
    learner, state = create(config, classes)
    teacher: Any = ()
    if config.distill.teacher:
        network, teacher = untrained(config)
        learner = dataclasses.replace(learner, teacher=network)
    state, teacher = jax.tree.map(lambda x: Shape(x.shape, x.dtype), (state, teacher))
    pixels = (data.stored_size, data.stored_size, 3)
    if data.input == "resident" and config.train.mode == "batch":
        members = (classes, max(1, images // classes))
        each = Shape((classes,), jnp.int32)
        table = ClassTable._make((Shape(members, jnp.int32), each, each if data.category else None))
        step = (
            partial(resident_step, learner)
            if devices[0].platform == "cpu"
            else partial(resident_steps, learner, 1)
        )
        call = on_devices.parallel(step, in_axes=(None, 0, None, None), devices=devices)
        held = (count, -(-images // count), -(-math.prod(pixels) // LINE), LINE)
        arguments: tuple = (state, Shape(held, jnp.uint8), table, teacher)
    else:
        call = on_devices.parallel(partial(train_step, learner), in_axes=(None, 0, 0, None), devices=devices)
        share = (count, batch // count)
        arguments = (state, Shape((*share, *pixels), jnp.uint8), Shape(share, jnp.int32), teacher)
    return on_devices.lower(call, *arguments)


def data_set(config: Config, images: int, classes: int) -> tuple[int, int]:
    """Numbers of images and of classes to learn from, where all classes have as many images.

    The data set has the numbers given, else those of a known source.

    Raises:
        ValueError: no number is given, and the size of the source is not known; or its division is not.
    """
    from jaxml.data import splits
    from jaxml.data.sources.known import KNOWN, Known

    known = KNOWN.get(config.data.source, Known(0, 0))
    images, classes = images or known.images, classes or known.classes
    if not images or not classes:
        raise ValueError(
            f"--data.source {config.data.source}: say how large it is, with --images and --classes (all that it has)"
        )
    if config.data.split == splits.SOURCE and not known.division:
        raise ValueError(
            f"--data.split {splits.SOURCE}: a plan reads no data set, so that it does not know what "
            f"{config.data.source} states; give the same as ranges train/val/test such as 0-59/60-79/80-99"
        )
    parts = splits.split(config.data.split, classes, known.division)
    learned = sum(len(parts[part]) for part in config.data.train_on.split("+"))
    return images * learned // classes, learned
