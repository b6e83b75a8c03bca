"""Measures training from many JPEG files: decoded when a batch needs them, and decoded once and kept in memory.

    python -m experiments.benchmarks.streaming
    python -m experiments.benchmarks.streaming --pictures 6000

Draws the files into WORKDIR/pictures if they are not there, in folders of 60, and trains the backbone `simple` on them
with `--data.input tf_data` and `resident`, each for `--steps` steps of 256 images; the classes that are scored are ten.
For each: wall time and peak memory of the whole command, with the first look at every file in that of the first, and
the median rate of the steps. Writes streaming.json into WORKDIR. Takes three minutes on two CPU cores.
"""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.benchmarks.folder import timed
from jaxml.commands.options import parse
from jaxml.commands.process import command
from jaxml.files import write_json
from jaxml.progress import Progress
from jaxml.training import history

A_CLASS = 60
SIDE = 96
"""Pixels of a side of the files."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """How many pictures, and how long to train."""

    pictures: int = 120_000
    """Number of pictures, at least 5,040."""
    steps: int = 100
    """Steps of each training."""
    workdir: Path = Path("runs/streaming")
    """Folder for pictures, runs and results."""


def draw(folder: Path, count: int) -> None:
    """Write JPEG files, each a blurred pattern of its class with noise of its own."""
    rng = np.random.default_rng(0)
    with Progress("drawing", count, "picture") as progress:
        for i in range(count):
            if i % A_CLASS == 0:
                pattern = rng.uniform(40, 215, (6, 6, 3)).astype(np.uint8)
                base = np.asarray(Image.fromarray(pattern).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            noise = rng.integers(-40, 40, (SIDE // 4, SIDE // 4, 3)).repeat(4, 0).repeat(4, 1)
            place = folder / f"{i // A_CLASS:05d}" / f"{i:06d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((base + noise).clip(0, 255).astype(np.uint8)).save(place, quality=85)
            progress.update()


def main(words: list[str]) -> None:
    """Draw, train by either path, and print what each took."""
    arguments = parse(Arguments, words, __doc__)
    place, classes = arguments.workdir, arguments.pictures // A_CLASS
    pictures = place / "pictures"
    if not pictures.exists():
        draw(pictures, arguments.pictures)
    found: dict[str, Any] = {}
    for path in ("tf_data", "resident"):
        run = place / path
        options = {
            "workdir": run,
            "data.source": "folder",
            "data.root": pictures,
            "data.cache": place / "cache",
            "data.split": f"0-{classes - 21}/{classes - 20}-{classes - 11}/{classes - 10}-{classes - 1}",
            "data.input": path,
            "data.classes_per_batch": 64,
            "data.images_per_class": 4,
            "train.steps": arguments.steps,
            "train.log_every": 1,
            "train.eval_every": arguments.steps,
            "train.save_every": arguments.steps,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        found[path] = timed(place / f"{path}.log", ["train", *words])
        rows = history.read(run / "metrics.jsonl")
        # The first steps compile, and use up what was read ahead.
        rates = [row["images_per_second"] for row in rows if "loss" in row][len(rows) // 4 :]
        found[path]["images/s"] = round(statistics.median(rates))
        print(f"{path}: {found[path]['images/s']} images/s", flush=True)
    write_json(place / "streaming.json", found)


if __name__ == "__main__":
    command(main)
