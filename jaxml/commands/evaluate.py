"""Cluster one part of a run's data with its best checkpoint, and print all metrics.

    jaxml evaluate --workdir runs/glyphs_simple --split test

Needs only the run's directory and the data set. Nothing in the directory is changed, and the run may be training
meanwhile. The configuration there must be the one that the checkpoint was saved with, and the pictures must be those
that the run has seen, unless --other_data is given. Metrics named original_* start K-means from true labels, as the
work that this project reimplements did; all others see no label before scoring.
"""

import dataclasses
from typing import Annotated, Literal

from jaxml.commands.options import also, parse


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which run and which classes."""

    workdir: str
    """Directory of the run."""
    split: Literal["train", "val", "test"] = "test"
    """Classes to cluster."""
    data_root: Annotated[str, also("--data.root")] = ""
    """Folder of the data set, if it has moved since the training."""
    other_data: bool = False
    """Score other pictures than those that the run has seen."""


def main(words: list[str]) -> None:
    """Embed the images of a part, and print their scores."""
    arguments = parse(Arguments, words, __doc__)
    from jaxml.training import results, run

    opened = run.load(arguments.workdir, data_root=arguments.data_root, other_data=arguments.other_data)
    rows = opened.images.rows(arguments.split)
    scores = results.score(opened, opened.embed(rows), rows)
    print(f"{len(rows)} images of {len(opened.images.classes(arguments.split))} {arguments.split} classes:")
    for name, value in scores.items():
        if not name.endswith("_std"):
            deviation = f" +- {scores[f'{name}_std']:.4f}" if f"{name}_std" in scores else ""
            print(f"  {name:16}{value:8.4f}{deviation}")
