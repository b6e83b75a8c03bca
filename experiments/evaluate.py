"""Cluster the images of one part of a run's data with its best checkpoint, and print all metrics.

    python experiments/evaluate.py --workdir runs/glyphs_simple --split test

The run's directory is all it needs, beside the data; nothing there is changed, and the run may be training meanwhile.
The configuration in it must be the one that the checkpoint was saved with, and the pictures those that the run saw, up
to --other_data. Metrics named original_* start K-means from true labels, as
the work that this project reimplements did; all others see no label before scoring.
"""

import dataclasses
from typing import Annotated, Literal

import tyro

from jaxml.cli import also, command


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which run and which classes."""

    workdir: str
    """Directory of the run."""
    split: Literal["train", "val", "test"] = "test"
    """Classes to cluster."""
    data_root: Annotated[str, also("--data.root")] = ""
    """Folder of the data set, where it is no longer the one of the training."""
    other_data: bool = False
    """Score other pictures than those that the run has seen."""


def main(words: list[str]) -> None:
    arguments = tyro.cli(Arguments, args=words, description=__doc__, use_underscores=True)
    from jaxml.training import results, run

    opened = run.load(arguments.workdir, data_root=arguments.data_root, other_data=arguments.other_data)
    rows = opened.images.rows(arguments.split)
    found = results.score(opened, opened.embed(rows), rows)
    print(f"{len(rows)} images of {len(opened.images.classes(arguments.split))} {arguments.split} classes:")
    for name, value in found.items():
        if not name.endswith("_std"):
            deviation = f" +- {found[f'{name}_std']:.4f}" if f"{name}_std" in found else ""
            print(f"  {name:16}{value:8.4f}{deviation}")


if __name__ == "__main__":
    command(main)
