"""The programs that training.py times: the step, its parts, and the input paths."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.benchmarks.timing import flops, memory, reset_peak
from jaxml import models
from jaxml.config import Config
from jaxml.data.augment import augment
from jaxml.data.images import Images, open_images
from jaxml.data.sampling import class_table, sample
from jaxml.training import inputs, resident_steps
from jaxml.training import step as training
from jaxml.training.devices import AXIS, divide, lower, parallel, replicate
from jaxml.training.learner import Learner, create
from jaxml.training.resident_steps import divided
from jaxml.training.run import Run

INPUT, NETWORK, LOSS = "input", "network", "loss"
FIXED, RESIDENT, MANY = "step, fixed batch", "step, resident", "step, resident, many a call"
DECODING, STREAMED = "input, tf.data", "step, tf.data"
SIZES = ("activations and gradients, MiB", "images, parameters, optimiser, MiB", "peak of a step, MiB")


@dataclass(frozen=True)
class Program:
    """A program to time."""

    call: Callable[[], Any]
    """Starts `steps` steps."""
    steps: int = 1
    burst: int = 1
    """Number of calls before waiting for the last one: a run does not wait for an accelerator after every step."""
    wait: Callable[[Any], object] = jax.block_until_ready
    """Waits for the result of `call`."""
    flops: float = float("nan")
    """Operations of one step on one device."""

    def __call__(self) -> None:
        """Make all calls, and wait until they are done."""
        for _ in range(self.burst):
            result = self.call()
        self.wait(result)


def carried(step: Callable[[Any], tuple[Any, Any]], state: Any, devices: list) -> Callable[[], object]:
    """A step that continues from the state its last call returned; it works on a copy, whose memory it reuses."""
    states = [replicate(jax.tree.map(jnp.copy, state), devices)]

    def call() -> object:
        states[0], metrics = step(states[0])
        return metrics

    return call


def burst() -> int:
    """Number of calls in a row: steps may queue up on an accelerator, as in a run, but not on CPU devices."""
    return 1 if jax.devices()[0].platform == "cpu" else 10


def compiled(program: partial, first: Any, *others: Any) -> tuple[Callable[..., Any], Any]:
    """The function that `parallel` returned, compiled for these arguments, and what the compiler made of it."""
    _, places = program.args
    executable = lower(program, first, *others).compile()
    return lambda first, *others: executable(places, first, others), executable


def parts(learner: Learner, state: Any, images: Images, devices: list) -> dict[str, tuple]:
    """`input`, `network` and `loss`, each as (function, in_axes, arguments)."""
    config, data = learner.config, learner.config.data
    backbone = models.BACKBONES[config.model.backbone]
    batch = data.classes_per_batch * data.images_per_class
    rng = np.random.default_rng(0)
    params = {name: value for name, value in state.params.items() if name != "loss"}
    rows = images.rows(data.train_on)
    pixels = divided(images.read, rows, devices)
    drawn_from = replicate(class_table(images.index.labels[rows], images.classes(data.train_on)), devices)
    inputs = rng.normal(size=(batch, data.size, data.size, 3)).astype(np.float32)
    seeds = np.arange(batch, dtype=np.uint32)
    outputs = rng.normal(size=(batch, config.model.feature_size)).astype(np.float32)
    labels = np.repeat(np.arange(data.classes_per_batch, dtype=np.int32), data.images_per_class)

    def draw(pixels, drawn_from, seeds):
        indices, _ = sample(0, 0, drawn_from, data.classes_per_batch, data.images_per_class)
        look = {"size": data.size, "mean": backbone.mean, "std": backbone.std}
        look |= {"crop_area": data.crop_area, "flip": data.flip, "jitter": data.jitter}
        return augment(
            resident_steps.draw(pixels, indices, data.stored_size), jax.vmap(jax.random.key)(seeds), **look
        )

    def network(params, stats, inputs, seeds):
        def total(params):
            outputs, changed = learner.module.apply(
                {"params": params, "batch_stats": stats},
                inputs,
                train=True,
                keys=jax.vmap(jax.random.key)(seeds),
                mutable=["batch_stats"],
            )
            return jnp.mean(outputs**2), changed

        grads, changed = jax.grad(total, has_aux=True)(params)
        return lax.pmean(grads, AXIS), changed

    def loss(outputs, labels, params):
        def value(outputs, params):
            return training.objective(learner, params, outputs, labels, jax.random.key(0))

        return jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(outputs, params)

    replicated = partial(replicate, devices=devices)
    shares = [divide(array, devices) for array in (inputs, seeds, outputs, labels)]
    return {
        INPUT: (draw, (0, None, 0), (pixels, drawn_from, shares[1])),
        NETWORK: (
            network,
            (None, None, 0, 0),
            (replicated(params), replicated(state.batch_stats), shares[0], shares[1]),
        ),
        LOSS: (loss, (0, 0, None), (shares[2], shares[3], replicated(state.params.get("loss")))),
    }


def fixed_step(learner: Learner, state: Any, pixels: np.ndarray, devices: list) -> Program:
    """The step on one fixed batch in device memory, uint8 [B, S, S, 3]."""
    per_class = learner.config.data.images_per_class
    labels = np.arange(len(pixels), dtype=np.int32) // per_class
    arguments = [divide(array, devices) for array in (pixels, labels)]
    step = parallel(partial(training.train_step, learner), in_axes=(None, 0, 0), devices=devices)
    call, executable = compiled(step, replicate(state, devices), *arguments)
    return Program(
        carried(lambda state: call(state, *arguments), state, devices), burst=burst(), flops=flops(executable)
    )


def ours(config: Config, images: Images, devices: list) -> tuple[dict[str, Program], dict[str, Program]]:
    """The programs that are timed in alternation, and the input paths, which are timed in rows of steps."""
    learner, state = create(config, len(images.classes(config.data.train_on)))
    found: dict[str, Program] = {}
    for name, (function, in_axes, arguments) in parts(learner, state, images, devices).items():
        program = parallel(function, in_axes=in_axes, devices=devices, out_axes=0)
        call, executable = compiled(program, *arguments)
        found[name] = Program(partial(call, *arguments), burst=burst(), flops=flops(executable))
    batch = config.data.classes_per_batch * config.data.images_per_class
    fixed = fixed_step(learner, state, *images.read([np.arange(batch)]), devices)

    def as_in_a_run(config: Config, images: Images) -> Program:
        run = Run(Path(), replace(learner, config=config), state, images, devices, None)
        count = config.train.steps_per_call
        call = carried(inputs.stepper(run, 0), state, devices)
        return replace(fixed, call=call, steps=count, burst=fixed.burst if count == 1 else 1)

    single = replace(config, train=replace(config.train, steps_per_call=1))
    found |= {FIXED: fixed, RESIDENT: as_in_a_run(single, images)}
    if devices[0].platform != "cpu":  # on CPU a run makes single calls, whatever steps_per_call is
        count = config.train.steps_per_call if config.train.steps_per_call > 1 else 16
        found[MANY] = as_in_a_run(replace(config, train=replace(config.train, steps_per_call=count)), images)
    rows = {FIXED: found[FIXED], RESIDENT: found[RESIDENT]}
    if importlib.util.find_spec("tensorflow"):
        streamed = replace(single, data=replace(config.data, input="tf_data"))
        files = open_images(streamed.data)
        rng, candidates = np.random.default_rng(0), images.rows(config.data.train_on)
        decoded = files.read(rng.choice(candidates, batch) for _ in itertools.count())
        rows |= {DECODING: Program(lambda: next(decoded)), STREAMED: as_in_a_run(streamed, files)}
    return found, rows


def step_memory(config: Config, batch: int, *, to_run: bool) -> dict[str, float | str]:
    """MiB that XLA reserves for a step on one device and, if it is `to_run`, the peak while it ran; named as SIZES.

    On CPU the peak is the growth of the process, which keeps freed pages; on a GPU it is that since the process began.
    """
    learner, state = create(config, config.data.classes_per_batch)
    step = parallel(partial(training.train_step, learner), in_axes=(None, 0, 0), devices=jax.devices()[:1])
    side = config.data.stored_size
    pixels = jax.ShapeDtypeStruct((1, batch, side, side, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((1, batch), jnp.int32)
    call, executable = compiled(step, state, pixels, labels)
    sizes = executable.memory_analysis()
    found = [sizes.temp_size_in_bytes / 2**20, sizes.argument_size_in_bytes / 2**20]
    if to_run and (before := reset_peak()) is not None:
        arguments = (np.zeros(x.shape, x.dtype) for x in (pixels, labels))
        jax.block_until_ready(call(state, *arguments))
        stats = jax.devices()[0].memory_stats()
        found.append(stats["peak_bytes_in_use"] / 2**20 if stats else memory("VmHWM") - before)
    return {name: round(size, 1) for name, size in zip(SIZES, found, strict=False)}
