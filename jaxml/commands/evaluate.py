"""Cluster one part of a run's data with its best checkpoint, and print all metrics.

    jaxml evaluate --workdir runs/glyphs_simple --split test

Needs only the run's directory and the data set. Nothing in the directory is changed, and the run may be training
meanwhile. The configuration there must be the one that the checkpoint was saved with, and the pictures must be those
that the run has seen, unless --other_data is given. Metrics named original_* start K-means from true labels, as the
work that this project reimplements did; all others see no label before scoring.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Ge

from jaxml.commands.options import also, parse
from jaxml.config.checks import options
from jaxml.config.values import Category, Count, Int


@options
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
    feature_size: Annotated[Int, Ge(0), also("--eval.feature_size")] = 0
    """Dimensions of the embedding to score, the first ones; 0 is as the run is configured."""
    ks: tuple[Count, ...] = ()
    """Numbers of neighbours at which recall and precision are taken; 1 2 4 8 16 32 by default."""
    rerank: bool = False
    """Score the nearest images ranked again by the neighbours that they share with the query as well (k-reciprocal
    re-ranking)."""
    category: Annotated[Category, also("--data.category")] = ""
    """Score the nearest images by a category of the classes as well, and the ranking by both levels: source for what
    the data set states, or a regular expression on names of classes, whose first group is the category."""
    whiten: Annotated[Int, Ge(0)] = 0
    """Score PCA with whitening to so many dimensions as well, of the whole embedding and of the frozen features of
    pretrained weights. It is fitted to the training classes, whose images are embedded for it. 0 does not."""


def main(words: list[str]) -> None:
    """Embed the images of a part, and print their scores."""
    arguments = parse(Arguments, words, __doc__)
    from jaxml.evaluation.metrics import KS
    from jaxml.training import results, run

    opened = run.load(
        arguments.workdir,
        data_root=arguments.data_root,
        other_data=arguments.other_data,
        feature_size=arguments.feature_size,
    )
    rows = opened.images.rows(arguments.split)
    embeddings = opened.embed(rows)
    scores = results.score(opened, embeddings, rows, arguments.ks or KS)
    classes, width = len(opened.images.classes(arguments.split)), opened.config.model.feature_size
    print(
        f"{len(rows)} images of {classes} {arguments.split} classes, by {embeddings.shape[1]} of {width} dimensions:"
    )
    print(f"  {results.by_kmeans(opened, rows)}")
    _print(scores)
    if arguments.rerank:
        print("with k-reciprocal re-ranking:")
        _print(results.reranked_scores(opened, embeddings, rows, arguments.ks or KS))
    if arguments.category:
        print("by category, and by class and category as levels (h_ap, ndcg, asi):")
        _print(results.category_scores(opened, embeddings, rows, arguments.category, arguments.ks or KS))
    if arguments.whiten:
        print(results.table(results.whitened(opened, rows, arguments.whiten)))


def _print(scores: Mapping[str, float]) -> None:
    for name, value in scores.items():
        if not name.endswith("_std"):
            deviation = f" +- {scores[f'{name}_std']:.4f}" if f"{name}_std" in scores else ""
            print(f"  {name:16}{value:8.4f}{deviation}")
