"""Run the rows of rows.py, or some of them, under one budget, and write the table of all that are finished.

    python -m experiments.paper.reproduce --data_root CUB_200_2011 --weights squeezenet1_1.safetensors
    python -m experiments.paper.reproduce --data_root ... --weights ... --only b_hinge --budget large --seeds 0 1 2

Each row and seed is a run of train.py in WORKDIR/ROW/SEED, with the command line that the table shows. Finished rows
are skipped, stopped ones go on where they were saved, so the same command may be given again at any time. Writes
results.json and table.md into WORKDIR after every row, results.html and figures/ at the end. The small budget takes
about two CPU minutes a row (README has the numbers to expect).

All rows of a WORKDIR have one budget, data set and weights. The depends_on.json of each row holds its options, and
SHA-256 of data and weights; others are refused. One process at a time works on a WORKDIR.

Exit codes: 0 finished, 1 an error that the last line names, 2 wrong options, 75 stopped by SIGTERM and saved.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from experiments.paper.rows import BUDGETS, ROWS, Row
from jaxml import config as configs
from jaxml.arguments import whole
from jaxml.cli import also, command, parse_train
from jaxml.config import Config
from jaxml.errors import RunError
from jaxml.files import replacing
from jaxml.training import records


@dataclass(frozen=True)
class Arguments:
    """Which rows, how long, where."""

    data_root: Annotated[str, also("--data.root")] = ""
    """Folder of the data set."""
    weights: Annotated[str, also("--model.weights")] = ""
    """Pretrained weights of the backbone (safetensors)."""
    only: tuple[str, ...] = ()
    """Names of rows; all by default."""
    budget: str = "small"
    """small or large: see rows.BUDGETS."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds."""
    devices: Annotated[int, also("--train.devices")] = 0
    """Devices to train on; 0 takes all."""
    workdir: str = "runs/reproduce"
    """Where runs and tables go."""


def main(words: list[str]) -> None:
    arguments = tyro.cli(Arguments, args=words, description=__doc__, use_underscores=True)
    asked = _asked(arguments)
    from experiments.paper import tables

    # First of all, so that missing data are an error where every row is finished too.
    budget = _config(BUDGETS[arguments.budget].split(), 0, arguments)
    shared = {"budget": arguments.budget, **records.contents(budget)}

    def depends_on(row: Row, seed: int) -> dict[str, Any]:
        config = _config(train_words(row, arguments.budget), seed, arguments)
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
    """The rows to run; ValueError for arguments that make no sense."""
    names = [row.name for row in ROWS]
    if unknown := sorted({*arguments.only} - {*names}):
        raise ValueError(f"--only {' '.join(unknown)} is no row; there are {', '.join(names)}")
    if arguments.budget not in BUDGETS:
        raise ValueError(f"--budget is {arguments.budget!r}; allowed: {', '.join(BUDGETS)}")
    if not arguments.seeds or len({*arguments.seeds}) < len(arguments.seeds):
        found = " ".join(map(str, arguments.seeds))
        raise ValueError(f"--seeds is {found!r}; give one seed or more, each of them once")
    for seed in arguments.seeds:
        whole("--seeds", seed, minimum=0, maximum=2**32 - 1)
    whole("--devices", arguments.devices, minimum=0)
    if not arguments.workdir:
        raise ValueError("--workdir is empty; leave it out, or name a folder")
    rows = [row for row in ROWS if row.name in (arguments.only or names)]
    if not arguments.weights and any(row.features == "frozen" for row in rows):
        raise ValueError("--weights is missing: the row frozen is about pretrained weights")
    return rows


def _config(words: list[str], seed: int, arguments: Arguments) -> Config:
    """The configuration of train.py's options `words`, with this seed and the paths and devices asked for."""
    config = parse_train(words, "").config
    return replace(
        config,
        data=replace(config.data, root=arguments.data_root or config.data.root),
        model=replace(config.model, weights=arguments.weights or config.model.weights),
        train=replace(config.train, seed=seed, devices=arguments.devices),
    )


def train_words(row: Row, budget: str) -> list[str]:
    """The row's options of train.py, without seed and paths."""
    found = [*BUDGETS[budget].split(), *row.words]
    shorter = ("--train.steps", "--train.eval_every", "--train.save_every", "--optim.warmup_steps")
    factors = dict.fromkeys(shorter, 1 / row.batch)
    for name, factor in {"--data.classes_per_batch": row.batch, **factors}.items():
        place = found.index(name) + 1
        found[place] = str(round(int(found[place]) * factor))
    return found


def measure(row: Row, seed: int, depends_on: dict[str, Any], folder: Path) -> None:
    """Train and score one row, and write `measured.json` into its folder."""
    from experiments.benchmarks.timing import where
    from experiments.paper import tables

    print(f"\n== {row.name}: {row.title}, seed {seed}", flush=True)
    records.claim(folder, depends_on, used=tables.begun(folder))
    config = configs.from_dict(depends_on["config"])
    with Clock(folder / "clock.json") as clock:
        found = (untrained if row.features else trained)(row, config, folder)
    words = train_words(row, depends_on["budget"])
    found |= {**depends_on, "seed": seed, "words": words, **clock.total, "where": where()}
    records.write(folder / tables.MEASURED, found)


def trained(row: Row, config: Config, folder: Path) -> dict[str, Any]:
    """Train, choose a step for each number of clusters, score the test classes there."""
    from experiments.paper import plots
    from jaxml.evaluation.clustering import evaluate, validate
    from jaxml.training import history, train

    opened = train.learn(config, folder, resume=(folder / "config.json").exists())
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
    """Score features of the test images that nothing has been trained for."""
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
    """Wall and CPU seconds of a row over all its attempts but those that were killed; kept in a file."""

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
