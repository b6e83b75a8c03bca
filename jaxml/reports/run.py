"""The report of a run: what its network makes of classes that it has not seen, as one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from jaxml.evaluation import clustering, metrics
from jaxml.evaluation.neighbours import neighbours
from jaxml.files import write_atomically
from jaxml.reports import figures, page
from jaxml.reports.page import Picture

Config = Mapping[str, Mapping[str, Any]]
Table = tuple[list[str], list[tuple[str, list[str]]]]  # columns, and rows of a name and cells

QUERIES = 10
NEIGHBOURS = 10  # shown of each query
MISTAKES = 12
MAPPED_CLASSES = 150

CLUSTERING = {"nmi": "NMI", "ami": "AMI", "ari": "ARI", "f1": "F1 (pairs)", "purity": "Purity"}
RETRIEVAL = {**{f"recall@{k}": f"R@{k}" for k in metrics.KS}, "r_precision": "R-precision", "map@r": "MAP@R"}
ORIGINAL = {
    "original_nmi": "NMI (uses labels)",
    "original_f1": '"F1", accuracy (uses labels)',
    "recall@1": "R@1",
    "recall@8": "R@8",
}
CUB = ("cub", "caltech_birds2011")
# Shah 2017, CUB-200-2011 classes 101-200, Inception v3, 64 dimensions, by loss and clusters per class.
PUBLISHED = {
    "hinge, 1 cluster": (0.351, 0.174, 0.188, 0.514),
    "hinge, 3 clusters": (0.385, 0.238, 0.200, 0.525),
    "hinge, 3 clusters, local": (0.353, 0.212, 0.176, 0.502),
    "square, 1 cluster": (0.253, 0.119, 0.117, 0.384),
    "square, 3 clusters": (0.284, 0.168, 0.117, 0.384),
    "square, 3 clusters, local": (0.275, 0.164, 0.118, 0.384),
    "soft, 1 cluster": (0.308, 0.147, 0.160, 0.479),
    "soft, 3 clusters": (0.350, 0.214, 0.171, 0.495),
    "soft, 3 clusters, local": (0.353, 0.215, 0.172, 0.501),
}
# State of the art as the poster of Shah 2017 quotes it; for lifted structure's F1, 0.19 to 0.20, the upper end.
PUBLISHED_LABEL_FREE = {
    "published: contrastive pairs": {"nmi": 0.46, "f1": 0.12},
    "published: triplet": {"nmi": 0.50, "f1": 0.16},
    "published: lifted structure": {"nmi": 0.54, "f1": 0.20},
}
OURS = "this run"
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


class _Images(NamedTuple):
    """The images of the split that is reported."""

    embeddings: np.ndarray
    """float [N, D]."""
    labels: np.ndarray
    """int [N]."""
    pixels: np.ndarray
    """uint8 [N, s, s, 3]."""
    names: Sequence[str]
    """N names of classes."""

    def picture(self, row: int, note: str = "", kind: str = "") -> Picture:
        return page.picture(self.pixels[row], self.names[row], note, kind)

    def most_central(self, rows: np.ndarray, centre: np.ndarray) -> int:
        """The one of `rows` int [n] whose embedding is nearest to `centre` float [D]."""
        return int(rows[((self.embeddings[rows] - centre[None, :]) ** 2).sum(1).argmin()])


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
    clusters: np.ndarray | None = None,
    baselines: Sequence[tuple[str, Mapping[str, float]]] = (),
    split: str = "test",
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
        clusters: int [N]; by default the first of the K-means runs that `evaluate` scores with this seed.
        baselines: pairs of a name and the results of other embeddings of these images.
        split: name of the part that the images are of.
        seed: chooses the pictures that are shown, the same ones for every run.

    Raises:
        ValueError: lengths differ, the images are not uint8 [N, s, s, 3], or a label has no name.
    """
    labels, embeddings, images = np.asarray(labels), np.asarray(embeddings), np.asarray(images)
    if not len(embeddings) == len(labels) == len(images) > 0:
        raise ValueError(
            f"embeddings, labels and images must have one length above 0; "
            f"got {len(embeddings)}, {len(labels)} and {len(images)}"
        )
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be uint8 [N, s, s, 3]; got {images.dtype} {list(images.shape)}")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(f"labels reach {labels.max()}, but class_names has {len(class_names)} names")
    if clusters is None:
        num_clusters = len(np.unique(labels)) * config["eval"]["clusters_per_class"]
        clusters = clustering.cluster(embeddings, num_clusters, seed=seed)
    shown = _Images(embeddings, labels, images, [readable(class_names[label]) for label in labels])
    runs = [(OURS, results), *baselines]
    cub = config["data"]["source"] in CUB
    published = list(PUBLISHED_LABEL_FREE.items()) if cub else []
    text = page.render(
        "run.html",
        title=f"{config['model']['backbone']} on {config['data']['source']}: clusters of {PARTS.get(split, split)}",
        config=config,
        cub=cub,
        ours=OURS,
        facts=_facts(config, labels, split),
        numbers=_numbers(history, results, baselines),
        clustering=_table(CLUSTERING, [*runs, *published]),
        retrieval=_table(RETRIEVAL, runs),
        original=_original(runs, cub) if "original_nmi" in results else None,
        curves=_curves(history),
        picture_map=figures.picture_map(embeddings, labels, images, shown.names, seed=seed),
        class_map=_class_map(shown, seed),
        queries=_queries(shown, seed),
        mistakes=_mistakes(shown, np.asarray(clusters), seed),
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


def number(values: Mapping[str, float], name: str) -> str:
    """A metric to three digits with its standard deviation, or a dash where it was not measured."""
    if name not in values or np.isnan(values[name]):
        return page.DASH
    deviation = values.get(f"{name}_std")
    return f"{values[name]:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")


def _facts(config: Config, labels: np.ndarray, split: str) -> str:
    """What was trained, and the classes of `labels` int [N] that it is tested on."""
    data, train = config["data"], config["train"]
    return (
        f"{len(labels):,} images of {len(np.unique(labels))} {split} classes, {SEEN.get(split, SEEN['test'])}. "
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
        return number(values, name).split(" ±")[0]

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


def _original(runs: Sequence[tuple[str, Mapping[str, float]]], cub: bool) -> Table:
    """The metrics of Shah 2017, which use labels, and on CUB-200-2011 what he published of them."""
    rows = [(name, values) for name, values in runs if "original_nmi" in values]
    if cub:
        rows += [
            (f"Shah 2017: {name}", dict(zip(ORIGINAL, values, strict=True)))
            for name, values in PUBLISHED.items()
        ]
    return _table(ORIGINAL, rows)


def _table(columns: Mapping[str, str], rows: Sequence[tuple[str, Mapping[str, float]]]) -> Table:
    """The metrics named by the keys of `columns`, of each row."""
    return list(columns.values()), [(name, [number(values, key) for key in columns]) for name, values in rows]


def _curves(history: Sequence[Mapping[str, float]]) -> list[Markup]:
    """Loss, share of active triplets and validation NMI against the step, as SVG."""
    curves = []
    for key, title, options in (
        ("loss", "Training loss", {}),
        ("active_share", "Share of triplets that are active", {"share": True}),
        ("val_nmi", "NMI on validation classes", {"best": True}),
    ):
        points = {row["step"]: row[key] for row in history if key in row}
        steps = sorted(points)
        curves.append(figures.curve(steps, [points[s] for s in steps], title, **options))
    return curves


def _class_map(images: _Images, seed: int) -> dict[str, Any]:
    """The most central picture of each class in a full grid, near where the plane of class means has it.

    Returns the number of columns, and the pictures by row; None where the grid has more cells than there are classes.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    classes = np.random.default_rng(seed).permutation(np.unique(images.labels))[:MAPPED_CLASSES]
    members = [np.flatnonzero(images.labels == c) for c in classes]
    means = [images.embeddings[rows].mean(0) for rows in members]
    central = [images.most_central(rows, mean) for rows, mean in zip(members, means, strict=True)]
    xy = figures.plane(np.stack(means), seed)  # [C, 2]
    xy = (xy - xy.min(0, keepdims=True)) / np.maximum(np.ptp(xy, axis=0, keepdims=True), 1e-12)
    columns = int(np.ceil(np.sqrt(1.2 * len(classes))))
    rows = -(-len(classes) // columns)
    grid = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    cells = np.stack(grid, axis=-1).reshape(-1, 2)
    class_of = dict(zip(*reversed(linear_sum_assignment(cdist(xy, cells, "sqeuclidean"))), strict=True))
    return {
        "columns": columns,
        "pictures": [
            images.picture(central[class_of[i]]) if i in class_of else None for i in range(len(cells))
        ],
    }


def _queries(images: _Images, seed: int) -> list[tuple[Picture, list[Picture]]]:
    """Random images, each of another class, with their nearest ones."""
    classes, sizes = np.unique(images.labels, return_counts=True)
    rng = np.random.default_rng(seed)
    asked = np.sort(rng.permutation(classes[sizes > 1])[:QUERIES])
    queries = np.array([rng.choice(np.flatnonzero(images.labels == c)) for c in asked], int)
    strips = []
    for block, nearest in neighbours(images.embeddings, NEIGHBOURS, queries):
        for query, rows in zip(block, nearest, strict=True):
            right = images.labels[rows] == images.labels[query]
            pictures = [
                images.picture(row, kind="right" if same else "wrong")
                for row, same in zip(rows, right, strict=True)
            ]
            strips.append((images.picture(query, "query:", "query"), pictures))
    return strips


def _mistakes(images: _Images, clusters: np.ndarray, seed: int) -> dict[str, Any]:
    """Images in clusters int [N] of another class: how many, and some beside the most central of that class."""
    labels = images.labels
    majority = metrics.majority_class(clusters, labels)
    misplaced = np.flatnonzero(majority != labels)
    chosen: dict[int, int] = {}
    for row in np.random.default_rng(seed).permutation(misplaced):
        chosen.setdefault(int(clusters[row]), int(row))
    pairs = []
    for cluster, row in list(chosen.items())[:MISTAKES]:
        members = np.flatnonzero(clusters == cluster)
        typical = members[labels[members] == majority[row]]
        centre = images.most_central(typical, images.embeddings[members].mean(0))
        share = f"put with {len(typical)} of {len(members)}:"
        pairs.append((images.picture(row, "this is", "wrong"), images.picture(centre, share)))
    share = f"{len(misplaced) / len(labels):.0%}"
    return {"summary": f"{len(misplaced):,} of {len(labels):,} images ({share})", "pairs": pairs}
