"""Measures the speed of the training step, its parts and every input path, and the memory that batches take.

    python -m experiments.benchmarks.training                                      # simple, batch 256, 64 px
    python -m experiments.benchmarks.training --model.backbone squeezenet1_1 --data.stored_size 96 --data.size 96
    python -m experiments.benchmarks.training --data.source cub --data.root CUB_200_2011 --data.split standard \\
        --model.backbone resnet50 --data.stored_size 256 --data.size 224 --model.dtype bfloat16   # on a GPU

Any option of a run can be given. Parts: `input` (draw, gather, augment), `network` (forward and backward on fixed
pixels), `loss` (value and gradient on fixed outputs). `step, fixed batch` is the whole step on one
batch in device memory, `step, resident` and `step, tf.data` are what a run does. Parts are timed in
alternation in one process, and so are rows of steps of each input path, so that ratios hold on a busy machine too.
Reports too: the share of the device's rate for matrix products; the memory of a batch 16 times as large, with and
without `train.chunk`; tf.data if tensorflow is installed; and the same loop in PyTorch (`torch_loop.py`) if torch,
torchvision and pytorch-metric-learning are installed. PyTorch's workers augment, so its fixed batch is augmented
already, while ours is augmented inside the step. Its CPU threads wait for each other in busy loops, so other work on
the machine slows PyTorch down more than jaxml: compare the two on an idle machine only.

Takes about four minutes on two CPU cores, `--quick` (smaller, without the whole large batch) half of it. Expect the
loss below 2 % of the step, `resident` at least 0.97x the fixed batch, `tf.data` at least 0.9x the lesser of its own
decoding and the fixed batch.
A trace of a run's steps: `python experiments/train.py --train.profile 5`.
"""

from __future__ import annotations

import dataclasses
import gc
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import jax
import tyro

from experiments.benchmarks import training_parts as part
from experiments.benchmarks.timing import (
    Row,
    Times,
    alternating,
    bars,
    in_turn,
    matmul_rate,
    ratio,
    table,
    write,
)
from experiments.benchmarks.training_parts import Program
from jaxml import models
from jaxml.commands.process import command
from jaxml.config import Config, Data, Train
from jaxml.data import resident
from jaxml.data.images import Images, open_images

US, THEM = "jaxml", "PyTorch"
LOADER, LOADED = "input, DataLoader", "step, DataLoader"
ENDLESS = 16_000_000
DEFAULT = Config(
    data=Data(classes_per_batch=64, images_per_class=4, flip=False),
    train=Train(steps=ENDLESS, eval_every=ENDLESS, save_every=ENDLESS),
)


@dataclass(frozen=True)
class Arguments:
    """How long to measure, what to compare with, and every option of a run's configuration."""

    quick: bool = False
    """Shorter, and on CPU with a quarter of the batch."""
    seconds: float = 30.0
    """Seconds for all parts together, and as many for all input paths together."""
    parts_only: bool = False
    """Measure parts only: input paths and memory take long with a slow network."""
    peers: bool = True
    """Measure PyTorch too, where it is installed."""
    out: Path = Path("benchmarks")
    """Folder for training.json, .md and .png."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=lambda: DEFAULT)


def theirs(config: Config, images: Images) -> tuple[dict[str, Program], dict[str, Program]]:
    """PyTorch's programs; none if it is not installed, has no such network or loss, or has too little memory."""
    options = dict(config.loss.options)
    if config.loss.name != "triplet" or set(options) - {"margin"} or config.model.backbone == "shallow":
        print("PyTorch is left out: only the triplet loss over all triplets is compared, and not `shallow`")
        return {}, {}
    try:
        from experiments.benchmarks import torch_loop
    except ImportError as error:
        print(f"PyTorch is left out: {error}")
        return {}, {}
    rows = images.rows(config.data.train_on)
    file, labels = Path(resident.load(images.index, config.data).filename), images.index.labels[rows]
    pictures = torch_loop.Pictures(file, rows, labels, config.data, models.BACKBONES[config.model.backbone])
    calls = torch_loop.programs(config, pictures)
    timed = partial(Program, burst=part.burst(), wait=lambda _: torch_loop.finish())
    found = {name: timed(calls[name]) for name in (part.NETWORK, part.LOSS)}
    found[part.FIXED] = timed(calls["step"])
    try:
        found[part.FIXED]()
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        print(f"PyTorch is left out, out of memory: {error}")
        return {}, {}
    return found, {LOADER: Program(calls["input"]), LOADED: timed(calls["streamed"])}


def memory(config: Config, quick: bool) -> list[Row]:
    """Memory of a step for the batch, for 16 batches in chunks of one and, unless `quick`, for 16 batches at once."""
    batch = config.data.classes_per_batch * config.data.images_per_class
    rows = []
    # The largest comes last: it takes longest to compile, and may not fit into memory.
    for count, chunk in ((batch, 0), (16 * batch, batch), *([] if quick else [(16 * batch, 0)])):
        model, train = replace(config.model, batch_norm="frozen"), replace(config.train, chunk=chunk)
        try:
            sizes = part.step_memory(replace(config, model=model, train=train), count, to_run=not quick)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            sizes = dict.fromkeys(part.SIZES, "more than there is")
        rows.append({"batch": count, "train.chunk": chunk or "", **sizes})
        print(table(rows), flush=True)
    return rows


def measured(programs: dict[tuple[str, str], Program], times: Times, batch: int, rate: float) -> list[Row]:
    """A row for each program."""
    rows: list[Row] = []
    for (who, what), seconds in times.items():
        second, count = median(seconds), programs[who, what].flops
        share = f"{count / second / rate:.1%}" if count == count else ""
        row = {"who": who, "what": what, "ms": f"{second * 1e3:.3f}", "images/s": f"{batch / second:.1f}"}
        rows.append({**row, "rounds": len(seconds), "share of matmul rate": share})
    return rows


def findings(turns: Times, rows: Times) -> list[str]:
    """The main ratios, in words."""
    fixed = (US, part.FIXED)
    lines = [
        f"loss and mining: {1 / ratio(turns, (US, part.LOSS), fixed):.2%} of the step",
        f"network alone: {1 / ratio(turns, (US, part.NETWORK), fixed):.1%} of the step",
        f"resident: {ratio(turns, (US, part.RESIDENT), fixed):.3f}x the step on a fixed batch",
    ]
    if (US, part.MANY) in turns:
        lines.append(
            f"many steps a call: {ratio(turns, (US, part.MANY), (US, part.RESIDENT)):.2f}x single calls"
        )
    if (US, part.STREAMED) in rows:
        lesser = max((fixed, (US, part.DECODING)), key=lambda key: median(rows[key]))
        name = "decoding" if lesser != fixed else "step on a fixed batch"
        lines.append(
            f"tf.data: {ratio(rows, (US, part.STREAMED), lesser):.3f}x the {name}, the lesser of the two"
        )
    if (THEM, part.FIXED) in turns:
        names = (part.FIXED, part.NETWORK, part.LOSS)
        split = [f"{name} {ratio(turns, (US, name), (THEM, name)):.2f}x" for name in names]
        if (THEM, LOADED) in rows:
            split.append(f"{LOADED} {ratio(rows, (US, part.RESIDENT), (THEM, LOADED)):.2f}x (ours resident)")
        lines.append(f"against PyTorch: {', '.join(split)}")
    return lines


def main(arguments: Arguments) -> None:
    config, limit = arguments.config, arguments.seconds
    devices = jax.local_devices()[: config.train.devices or None]
    if arguments.quick:
        limit = min(limit, 12.0)
        if devices[0].platform == "cpu":
            classes = max(config.data.classes_per_batch // 4, 2)
            config = replace(config, data=replace(config.data, classes_per_batch=classes))
    data, model = config.data, config.model
    batch = data.classes_per_batch * data.images_per_class
    images = open_images(replace(data, input="resident"))
    rate = matmul_rate(model.dtype)
    if devices[0].platform == "cpu":
        rate /= len(devices)  # CPU devices share the cores
    # PyTorch is loaded first: Triton crashes the process if tensorflow, which jaxml may need, was loaded before it.
    peer = theirs(config, images) if arguments.peers else ({}, {})
    both = [part.ours(config, images, devices), peer]
    programs, paths = (
        {
            (who, name): run
            for who, found in zip((US, THEM), both, strict=True)
            for name, run in found[i].items()
        }
        for i in (0, 1)
    )

    def per_step(times: Times) -> Times:
        runs = programs | paths
        return {key: [t / runs[key].burst / runs[key].steps for t in times[key]] for key in times}

    turns = per_step(in_turn(programs, limit))
    rows = {} if arguments.parts_only else per_step(alternating(paths, limit))
    speeds, in_rows = (measured(programs | paths, times, batch, rate) for times in (turns, rows))
    text = [
        f"# Training: {model.backbone}, batch {batch} ({data.images_per_class} of a class), {data.size} px, "
        f"{model.dtype}, {config.loss.name}\n",
        "\n".join(f"- {line}" for line in findings(turns, rows)),
        f"\nParts, in turn (median); matrix products run at {rate / 1e9:,.0f} GFLOP/s a device:\n",
        table(speeds),
    ]
    if rows:
        text += ["Input paths, in rows of steps:\n", table(in_rows)]
        text += [
            "Memory of a step on one device, frozen BatchNorm:\n",
            table(memory(config, arguments.quick)),
        ]
    write(arguments.out, "training", speeds + in_rows, "\n".join(text))
    groups = {
        who: {k: batch / median(t) for (w, k), t in (turns | rows).items() if w == who} for who in (US, THEM)
    }
    groups = {who: values for who, values in groups.items() if values}
    bars(
        arguments.out,
        "training",
        groups,
        f"images/s, {model.backbone}, batch {batch}, {data.size} px",
    )


if __name__ == "__main__":
    command(lambda words: main(tyro.cli(Arguments, args=words, description=__doc__, use_underscores=True)))
    gc.collect()  # tf.data's threads must end before Python does
