"""Measures the training step on 1, 2, 4, ... devices, with the same number of images on each.

    python -m experiments.benchmarks.scaling
    python -m experiments.benchmarks.scaling --model.backbone resnet50 --data.stored_size 256 --data.size 224   # GPUs

Any option of a run can be given; the batch is that of all devices together. A machine with CPUs only is divided into
four CPU devices. These share its cores, so four can at best do a batch in the time in which one does the whole of it:
the column `of one device with this batch` is then near 1. It shows the cost of dividing the work, not the gain of
more devices. Takes about a minute and a half on two CPU cores, `--quick` half of it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated

import jax
import numpy as np
import tyro

from experiments.benchmarks import training_parts as part
from experiments.benchmarks.timing import Row, in_turn, ratio, table, write
from jaxml.commands.process import command
from jaxml.config import Config, Data
from jaxml.data.images import open_images
from jaxml.training.learner import create

DEFAULT = Config(data=Data(classes_per_batch=32, images_per_class=4, flip=False))


@dataclass(frozen=True)
class Arguments:
    """How long to measure, and every option of a run's configuration."""

    quick: bool = False
    """Shorter, with one device and with all; on CPU with half of the batch."""
    seconds: float = 40.0
    """Seconds for all numbers of devices together."""
    out: Path = Path("benchmarks")
    """Folder for scaling.json and .md."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=lambda: DEFAULT)


def scaling(config: Config, limit: float, quick: bool) -> list[Row]:
    """A row for each number of devices, with the same batch on one device for comparison."""
    images, devices = open_images(config.data), jax.local_devices()
    learner, state = create(config, len(images.classes(config.data.train_on)))
    share = config.data.classes_per_batch * config.data.images_per_class // len(devices)
    counts = [2**i for i in range(len(devices).bit_length())]
    if quick:
        counts = counts[:: max(len(counts) - 1, 1)]
    # (devices, batch)
    cases = [(n, n * share) for n in counts] + [(1, n * share) for n in counts[1:]]
    programs = {
        (n, batch): part.fixed_step(learner, state, *images.read([np.arange(batch)]), devices[:n])
        for n, batch in cases
    }
    times = in_turn(programs, limit)
    rows: list[Row] = []
    for n in counts:
        batch = n * share
        speed = batch * programs[n, batch].burst / median(times[n, batch])
        row: Row = {"devices": n, "batch": batch, "images/s": f"{speed:.1f}"}
        row["times one device with its share"] = f"{n * ratio(times, (n, batch), (1, share)):.2f}"
        rows.append({**row, "of one device with this batch": f"{ratio(times, (n, batch), (1, batch)):.2f}"})
    return rows


def main(arguments: Arguments) -> None:
    jax.config.update("jax_num_cpu_devices", 4)  # has an effect only on a machine without accelerators
    config, limit = arguments.config, arguments.seconds
    on_cpu = jax.local_devices()[0].platform == "cpu"
    if arguments.quick:
        limit = min(limit, 15.0)
        if on_cpu:
            classes = max(config.data.classes_per_batch // 2, 2)
            config = replace(config, data=replace(config.data, classes_per_batch=classes))
    note = (
        "CPU devices made of one host: they share its cores, and nothing is gained by them.\n"
        if on_cpu
        else ""
    )
    rows = scaling(config, limit, arguments.quick)
    head = f"# Devices: {config.model.backbone}, {config.data.size} px, {config.model.dtype}\n"
    write(arguments.out, "scaling", rows, "\n".join([head, note, table(rows)]))


if __name__ == "__main__":
    command(lambda words: main(tyro.cli(Arguments, args=words, description=__doc__, use_underscores=True)))
