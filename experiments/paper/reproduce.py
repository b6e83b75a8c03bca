"""Run the rows of rows.py, or some of them, under one budget, and write the table of all that are finished.

    python -m experiments.paper.reproduce --data_root CUB_200_2011 --weights squeezenet1_1.safetensors
    python -m experiments.paper.reproduce --data_root CUB_200_2011 --only b_hinge --budget large --seeds 0 1 2

Each row and seed is a run of train.py in WORKDIR/ROW/SEED, with the options that the table shows. Finished rows are
skipped and stopped ones continue from their last checkpoint, so the same command can be given again at any time. Writes
results.json and table.md into WORKDIR after every row, results.html and figures/ at the end. The small budget takes
about two CPU minutes for a row; experiments/results/table.md has the numbers to expect.

All rows of a WORKDIR have one budget, data set and weights: the depends_on.json of each row holds its options and the
SHA-256 of data and weights, and a command with other ones is refused. One process at a time works on a WORKDIR.

Exit codes: 0 finished, 1 an error, which the last line describes, 2 wrong options, 75 stopped by SIGTERM and saved.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from experiments.paper.rows import BUDGETS, PRESET, ROWS, Row, changes
from jaxml import config as configs
from jaxml.commands.options import also, parse, preset
from jaxml.commands.process import command
from jaxml.config import Config
from jaxml.config.checks import options
from jaxml.config.values import Int, Seed
from jaxml.errors import RunError
from jaxml.files import replacing
from jaxml.training import records


@options
@dataclass(frozen=True)
class Arguments:
    """Which rows to run, under which budget, and in which folder."""

    data_root: Annotated[str, also("--data.root")] = ""
    """Folder of the data set."""
    weights: Annotated[str, also("--model.weights")] = ""
    """Pretrained weights of the backbone (safetensors), where the budget does not bring them."""
    only: tuple[str, ...] = ()
    """Names of rows; all by default."""
    budget: str = "small"
    """small or large: see rows.BUDGETS."""
    seeds: tuple[Seed, ...] = (0,)
    """Training seeds."""
    devices: Annotated[Int, Ge(0), also("--train.devices")] = 0
    """Devices to train on; 0 takes all."""
    workdir: str = "runs/reproduce"
    """Folder for runs and tables."""


def main(words: list[str]) -> None:
    arguments = parse(Arguments, words, __doc__)
    asked = _asked(arguments)
    from experiments.paper import tables

    # This comes first, so that missing data are an error even if every row is finished.
    budget = _config(BUDGETS[arguments.budget], 0, arguments)
    shared = {"budget": arguments.budget, **records.contents(budget)}

    def depends_on(row: Row, seed: int) -> dict[str, Any]:
        config = _config(changes(row, arguments.budget), seed, arguments)
        return {**shared, "config": configs.to_dict(config)}

    workdir = Path(arguments.workdir)
    with records.held(workdir):
        for row in ROWS:
            for seed, folder in tables.runs(workdir, row):
                records.claim(folder, depends_on(row, seed), used=True)
        lines = tables.write(workdir, ROWS)
        for row in asked:
            for seed in arguments.seeds:
                folder = workdir / row.name / str(seed)
                if not (folder / tables.MEASURED).exists():
                    measure(row, seed, depends_on(row, seed), folder)
                    lines = tables.write(workdir, ROWS)
        tables.write_page(workdir, lines)
    print((workdir / "table.md").read_text(encoding="utf-8"))


def _asked(arguments: Arguments) -> list[Row]:
    """The rows to run.

    Raises:
        ValueError: an argument is invalid; the message names it.
    """
    names = [row.name for row in ROWS]
    if unknown := sorted({*arguments.only} - {*names}):
        raise ValueError(f"--only {' '.join(unknown)} is unknown; the rows are {', '.join(names)}")
    if arguments.budget not in BUDGETS:
        raise ValueError(f"--budget is {arguments.budget!r}; it must be one of {', '.join(BUDGETS)}")
    if not arguments.seeds or len({*arguments.seeds}) < len(arguments.seeds):
        given = " ".join(map(str, arguments.seeds))
        raise ValueError(f"--seeds is {given!r}; give at least one seed, and each seed once")
    if not arguments.workdir:
        raise ValueError("--workdir is empty; name a folder, or leave the option out")
    rows = [row for row in ROWS if row.name in (arguments.only or names)]
    brings_weights = "model.weights" in BUDGETS[arguments.budget]
    if not (arguments.weights or brings_weights) and any(row.features == "frozen" for row in rows):
        raise ValueError("--weights is missing; the row frozen needs pretrained weights")
    return rows


def _config(values: Mapping[str, Any], seed: int, arguments: Arguments) -> Config:
    """The preset's configuration with these values, this seed, and the paths and devices asked for."""
    places = {"data.root": arguments.data_root, "model.weights": arguments.weights}
    given = {name: path for name, path in places.items() if path}
    return configs.override(
        preset(PRESET), {**values, "train.seed": seed, "train.devices": arguments.devices, **given}
    )


def measure(row: Row, seed: int, depends_on: dict[str, Any], folder: Path) -> None:
    """Train and score one row, and write `measured.json` into its folder."""
    from experiments.benchmarks.timing import where
    from experiments.paper import tables

    print(f"\n== {row.name}: {row.title}, seed {seed}", flush=True)
    records.claim(folder, depends_on, used=tables.begun(folder))
    config = configs.from_dict(depends_on["config"])
    with Clock(folder / "clock.json") as clock:
        found = (untrained if row.features else trained)(row, config, folder)
    found |= {**depends_on, "seed": seed, **clock.total, "where": where()}
    records.write(folder / tables.MEASURED, found)


def trained(row: Row, config: Config, folder: Path) -> dict[str, Any]:
    """Train, choose a step for each number of clusters, and score the test classes with that step's network."""
    from experiments.paper import plots
    from jaxml.evaluation.clustering import evaluate, validate
    from jaxml.training import history, train

    resume = (folder / "config.json").exists()
    opened = train.learn(
        config, folder, resume=resume, go_on="give the same command again to continue the table"
    )
    labels, steps = opened.images.index.labels, opened.checkpoints.steps()
    states = {step: opened.checkpoints.restore(opened.state, step)[0] for step in steps}
    test, validation = opened.images.rows("test"), opened.images.rows("val")
    recorded = {
        row["step"]: {name.removeprefix("val_"): value for name, value in row.items() if name != "step"}
        for row in history.read(folder / "metrics.jsonl")
        if "val_nmi" in row
    }
    if lost := {*recorded} - {*steps}:
        raise RunError(
            f"{folder} has lost the checkpoints of steps {', '.join(map(str, sorted(lost)))}, of which the best is to "
            f"be chosen; delete {folder} to train the row again"
        )
    seen = (
        {step: opened.embed(validation, states[step]) for step in recorded} if max(row.clusters) > 1 else {}
    )
    found: dict[int, np.ndarray] = {}
    scores: dict[str, Any] = {"step": {}, "val": {}, "test": {}}
    for k in row.clusters:
        tried = recorded
        if k > 1:
            tried = {step: validate(x, labels[validation], clusters_per_class=k) for step, x in seen.items()}
        best = max(tried, key=lambda step: (tried[step]["nmi"], step)) if tried else steps[-1]
        if best not in found:
            found[best] = opened.embed(test, states[best])
        scores["step"][k], scores["val"][k] = best, tried.get(best)
        scores["test"][k] = evaluate(found[best], labels[test], clusters_per_class=k)
    with replacing(folder / plots.EMBEDDINGS, "wb") as file:
        embeddings, names = found[scores["step"][row.clusters[0]]], opened.images.index.class_names
        np.savez(file, embeddings=embeddings, labels=labels[test], class_names=names)
    return scores


def untrained(row: Row, config: Config, folder: Path) -> dict[str, Any]:
    """Score features of the test images that need no training."""
    from experiments.paper.handcrafted import features
    from jaxml.evaluation.clustering import evaluate
    from jaxml.training import results, run

    opened = run.open_run(config, folder)
    rows = opened.images.rows("test")
    if row.features == "frozen":
        found = results.frozen_features(opened, rows)
    else:
        pixels = next(opened.images.read([rows]))
        found = features(pixels) if row.features == "handcrafted" else results.pixels_as_features(pixels)
    return {"step": {}, "val": {}, "test": {1: evaluate(found, opened.images.index.labels[rows])}}


class Clock:
    """Wall and CPU seconds of a row, kept in a file and summed over all its attempts that were not killed."""

    def __init__(self, path: Path):
        self._path = path
        self.total = {"seconds": 0.0, "cpu_seconds": 0.0}
        if path.exists():
            self.total = records.read(path, "delete it, and the row's times begin at 0")

    def __enter__(self) -> Clock:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_) -> None:
        now = time.perf_counter(), time.process_time()
        for name, a, b in zip(self.total, self._start, now, strict=True):
            self.total[name] = round(self.total[name] + b - a, 1)
        records.write(self._path, self.total)


if __name__ == "__main__":
    command(main)
