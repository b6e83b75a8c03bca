"""The report of a run: what its network makes of classes that it has not seen, as one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from jaxml.evaluation import clustering
from jaxml.files import write_atomically
from jaxml.reports import figures, page, scores
from jaxml.reports import images as pictures
from jaxml.reports.explorer import explore

Config = Mapping[str, Mapping[str, Any]]

PARTS = {
    "test": "unseen classes",
    "val": "validation classes",
    "train+val": "classes that it was trained on",
}
"""By the part of the split that results are of, what its classes are."""
SEEN = {
    "test": "none of which was trained on",
    "val": "which chose the step; none of them was trained on",
    "train+val": "all of which were trained on, for there are no others",
}
"""By the part, what the network has seen of them."""
LISTED = 5
"""Classes that are named as learned before."""


def write(
    path: str | Path,
    *,
    config: Config,
    history: Sequence[Mapping[str, float]],
    results: Mapping[str, float],
    embeddings: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    class_names: Sequence[str],
    files: Sequence[str],
    clusters: np.ndarray | None = None,
    baselines: Sequence[tuple[str, Mapping[str, float]]] = (),
    split: str = "test",
    seen: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Write the report of one run on one split to `path`.

    Args:
        path: an HTML file.
        config: nested dict of `config.to_dict`.
        history: rows of metrics.jsonl, with `step` and any of `loss`, `active_share`, `images_per_second`, `val_nmi`.
        results: what `evaluation.clustering.evaluate` returned.
        embeddings: float [N, D].
        labels: int [N].
        images: uint8 [N, s, s, 3].
        class_names: names of the classes, by label.
        files: names of the images.
        clusters: int [N]; by default the first of the K-means runs that `evaluate` scores with this seed.
        baselines: pairs of a name and the results of other embeddings of these images.
        split: name of the part that the images are of.
        seen: names of the classes that networks which training began with or learned from had learned.
        seed: chooses the pictures that are shown, the same ones for every run.

    Raises:
        ValueError: lengths differ, the images are not uint8 [N, s, s, 3], or a label has no name.
    """
    labels, embeddings, images = np.asarray(labels), np.asarray(embeddings), np.asarray(images)
    if not len(embeddings) == len(labels) == len(images) == len(files) > 0:
        raise ValueError(
            f"embeddings, labels, images and files must have one length above 0; "
            f"got {len(embeddings)}, {len(labels)}, {len(images)} and {len(files)}"
        )
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be uint8 [N, s, s, 3]; got {images.dtype} {list(images.shape)}")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(f"labels reach {labels.max()}, but class_names has {len(class_names)} names")
    if clusters is None:
        num_clusters = len(np.unique(labels)) * config["eval"]["clusters_per_class"]
        clusters = clustering.cluster(embeddings, num_clusters, seed=seed)
    present, codes = np.unique(labels, return_inverse=True)
    names = [readable(class_names[label]) for label in present]
    shown = pictures.Images(embeddings, codes, images, names, files)
    runs = [(scores.OURS, results), *baselines]
    cub = config["data"]["source"] in scores.CUB
    published = list(scores.PUBLISHED_LABEL_FREE.items()) if cub else []
    text = page.render(
        "run.html",
        title=f"{config['model']['backbone']} on {config['data']['source']}: clusters of {PARTS.get(split, split)}",
        config=config,
        cub=cub,
        ours=scores.OURS,
        facts=_facts(config, labels, split, seen),
        numbers=_numbers(history, results, baselines),
        clustering=scores.table(scores.CLUSTERING, [*runs, *published]),
        retrieval=scores.table(scores.RETRIEVAL, runs),
        original=scores.original(runs) if cub and "original_nmi" in results else None,
        curves=_curves(history),
        class_map=pictures.class_map(shown, seed),
        queries=pictures.queries(shown, seed),
        landmarks=figures.LANDMARKS,
        data=explore(shown, np.asarray(clusters), seed),
    )
    write_atomically(Path(path), text)


def readable(class_name: str) -> str:
    """A class name for people.

    Example:
        >>> from jaxml.reports.run import readable
        >>> readable("001.Black_footed_Albatross")
        'Black footed Albatross'
    """
    return re.sub(r"^\d{3}\.(?=\D)", "", class_name).replace("_", " ").strip() or class_name


def _facts(config: Config, labels: np.ndarray, split: str, seen: Sequence[str]) -> str:
    """What was trained, and the classes of `labels` int [N] that it is tested on, of which `seen` had been learned."""
    data, train = config["data"], config["train"]
    names = ", ".join(map(readable, seen[:LISTED])) + ", ..." * (len(seen) > LISTED)
    before = (
        f" But networks that training began with or learned from had learned {len(seen)} of them ({names})."
        if seen
        else ""
    )
    return (
        f"{len(labels):,} images of {len(np.unique(labels))} {split} classes, {SEEN.get(split, SEEN['test'])}.{before} "
        f"Loss {config['loss']['name']}, {config['model']['feature_size']} dimensions, {train['steps']:,} steps of "
        f"{data['classes_per_batch']} classes \u00d7 {data['images_per_class']} images, seed {train['seed']}."
    )


def _numbers(
    history: Sequence[Mapping[str, float]],
    results: Mapping[str, float],
    baselines: Sequence[tuple[str, Mapping[str, float]]],
) -> list[tuple[str, str]]:
    """The main results, without deviations, each with what it is."""

    def mean(values: Mapping[str, float], name: str) -> str:
        return scores.number(values, name).split(" ±")[0]

    against = f"; {baselines[0][0]} {mean(baselines[0][1], 'nmi')}" if baselines else ""
    numbers = [
        (mean(results, "nmi"), f"NMI of K-means clusters{against}"),
        (mean(results, "f1"), "pairwise F1 of the clusters"),
        (mean(results, "recall@1"), "Recall@1: nearest image is right"),
        (mean(results, "purity"), "purity of the clusters"),
    ]
    speeds = [row["images_per_second"] for row in history if "images_per_second" in row]
    if speeds:
        numbers.append((f"{np.median(speeds):,.0f}", "images per second in training (median)"))
    return numbers


def _curves(history: Sequence[Mapping[str, float]]) -> list[Markup]:
    """Loss, share of active terms, and validation NMI against the step, as SVG."""
    curves = []
    for key, title, what, options in (
        ("loss", "Training loss", "loss of a batch", {}),
        ("active_share", "Active triplets, pairs or images", "share of those in a batch", {"share": True}),
        ("val_nmi", "Validation classes", "NMI of K-means clusters", {"best": True}),
    ):
        points = {row["step"]: row[key] for row in history if key in row}
        steps = sorted(points)
        curves.append(figures.curve(steps, [points[s] for s in steps], title, what, **options))
    return curves
