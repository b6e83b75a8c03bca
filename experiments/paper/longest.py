"""Add finished runs of train.py, one for each training seed, to results/longest.json as one row.

    python -m experiments.paper.longest --title "multi-similarity, 3,000 steps" --runs runs/a runs/b runs/c \\
        --minutes 100 --cpu_minutes 90

The runs may differ only in their seed. docs/results.md shows these rows in a table of their own, because their budgets
differ from those of the other rows.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from experiments.paper.readme import RESULTS
from experiments.paper.tables import over_seeds
from jaxml import config as configs
from jaxml.commands.options import parse, train_options
from jaxml.commands.process import command
from jaxml.config.presets import PRESETS
from jaxml.files import parse_json, write_atomically
from jaxml.training.records import PLACES

OWN = (*PLACES, "train.seed:")  # options that may differ between the runs of a row


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which runs to add, and how to describe them."""

    title: str
    """Name of the row; a row of that name is replaced."""
    runs: tuple[str, ...]
    """Directories of finished runs."""
    minutes: float
    """Wall minutes of one run."""
    cpu_minutes: float
    """CPU minutes of one run."""
    preset: str = "cub_squeezenet"
    """Preset that the runs were started from."""
    where: str = ""
    """Device, versions and commit."""
    out: str = str(RESULTS / "longest.json")
    """File to add to."""


def main(words: list[str]) -> None:
    arguments = parse(Arguments, words, __doc__)
    if not arguments.runs:
        raise ValueError("--runs names no run; give the directories of finished runs")
    if arguments.preset not in PRESETS:
        raise ValueError(f"--preset is {arguments.preset!r}; it must be one of {', '.join(PRESETS)}")
    out = Path(arguments.out)
    lines = parse_json(out.read_bytes(), out) if out.exists() else []
    lines = [line for line in lines if line["title"] != arguments.title]
    write_atomically(out, json.dumps([*lines, row(arguments)], indent=1) + "\n")


def row(arguments: Arguments) -> dict[str, Any]:
    """The line of results for these runs, in the form that `tables.collect` returns."""
    folders = [Path(name) for name in arguments.runs]
    found = [configs.load(folder / "config.json") for folder in folders]
    for folder, other in zip(folders, found, strict=True):
        changed = [line for line in configs.differences(found[0], other) if not line.startswith(OWN)]
        if changed:
            raise ValueError(
                f"{folder} differs from {folders[0]} in more than its seed: {'; '.join(changed)}"
            )
    seeds = [config.train.seed for config in found]
    if len({*seeds}) < len(seeds):
        raise ValueError(
            f"--runs have the training seeds {' '.join(map(str, seeds))}: each must have its own"
        )
    paths = [folder / "results.json" for folder in folders]
    results = [parse_json(path.read_bytes(), path) for path in paths]
    changes = configs.changes(PRESETS[arguments.preset], found[0])
    changes = {name: value for name, value in changes.items() if f"{name}:" not in OWN}
    return {
        "row": arguments.title,
        "section": "Longest training",
        "title": arguments.title,
        "clusters": found[0].eval.clusters_per_class,
        "seeds": seeds,
        "step": [result["step"] for result in results],
        "val": [],
        **over_seeds([result["test"] for result in results]),
        "loss": None,
        "minutes": arguments.minutes,
        "cpu_minutes": arguments.cpu_minutes,
        "original": None,
        "field": "",
        "command": "",
        "train": train_options(arguments.preset, changes),
        "where": arguments.where,
    }


if __name__ == "__main__":
    command(main)
