"""What the scripts of a report show in the browser, as one value of JSON: map, classes, confusions and mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxml.evaluation import metrics
from jaxml.files import printable
from jaxml.reports import figures
from jaxml.reports.classes import ALONE, nearest_images, summarise
from jaxml.reports.images import Images, rows_by_code
from jaxml.reports.sprites import sprites

HELD = 12_000  # images on a page; of more, random ones
PAIRS = 1000  # of classes that are confused
TAKEN = 3  # classes that a class is most often taken for
EXTENT = 9999  # of the map's longer side, whose coordinates are whole numbers


def explore(images: Images, clusters: np.ndarray, seed: int) -> dict[str, Any]:
    """The value for the scripts.

    Args:
        images: N images.
        clusters: int [N].
        seed: chooses the images that the page holds, their order and the map.

    Returns:
        `classes` and `pairs` are of all images. `images` are those that the page holds, in random order, and
        `sprites` the pictures of the first of them; `clusters` say of each cluster its majority class, how many of its
        images are of it, how many there are, and the most central of that class. Where the page does not hold an
        image, its place is -1. `misplaced` and `misled` count, of all images, those in a cluster with another
        majority, and those whose nearest image is of another class; the latter of `queries` images.
    """
    labels = images.labels
    clusters = np.unique(clusters, return_inverse=True)[1]
    nearest = nearest_images(images.embeddings, labels)
    found = summarise(labels, clusters, nearest)
    majority = metrics.majority_class(clusters, labels)
    held = np.random.default_rng(seed).permutation(len(labels))[:HELD]
    # The last place is that of ALONE, which numpy takes for an index from the end.
    place = np.full(len(labels) + 1, -1)
    place[held] = np.arange(len(held))
    label_of = np.append(labels, -1)
    xy = figures.plane(images.embeddings[held], seed)
    xy = xy - xy.min(0, keepdims=True)
    xy = np.rint(xy / max(xy.max(), 1e-12) * EXTENT).astype(int)
    taken: list[list[list[int]]] = [[] for _ in found.sizes]
    for a, b, times in found.pairs.tolist():
        if len(taken[a]) < TAKEN:
            taken[a].append([b, times])
    return {
        "classes": {
            "name": [printable(name) for name in images.classes],
            "size": found.sizes.tolist(),
            "recall": [None if np.isnan(share) else round(share, 4) for share in found.recall.tolist()],
            "purity": [round(share, 4) for share in found.purity.tolist()],
            "cluster": found.cluster.tolist(),
            "taken": taken,
        },
        "pairs": found.pairs[:PAIRS].tolist(),
        "all_pairs": len(found.pairs),
        "clusters": [
            _cluster(images, rows, int(majority[rows[0]]), place) for rows in rows_by_code(clusters)
        ],
        "images": {
            "file": [printable(images.files[row]) for row in held],
            "label": labels[held].tolist(),
            "cluster": clusters[held].tolist(),
            "nearest": place[nearest[held]].tolist(),
            "nearest_class": label_of[nearest[held]].tolist(),
            "x": xy[:, 0].tolist(),
            "y": xy[:, 1].tolist(),
        },
        "sprites": sprites(images.pixels, held)._asdict(),
        "total": len(labels),
        "misplaced": int((majority != labels).sum()),
        "misled": int((label_of[nearest] != labels)[nearest != ALONE].sum()),
        "queries": int((nearest != ALONE).sum()),
    }


def _cluster(images: Images, rows: np.ndarray, majority: int, place: np.ndarray) -> list[int]:
    """Majority class, its images, all images, and the place of the most central one, of a cluster's `rows` int [n]."""
    typical = rows[images.labels[rows] == majority]
    centre = images.most_central(typical, images.embeddings[rows].mean(0))
    return [majority, len(typical), len(rows), int(place[centre])]
