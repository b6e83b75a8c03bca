"""The images of the split that a report is of, and the pictures of them that it shows without a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxml.evaluation.neighbours import neighbours
from jaxml.reports import figures, page
from jaxml.reports.page import Picture

QUERIES = 10
NEIGHBOURS = 10  # shown of each query
MAPPED_CLASSES = 150


class Images(NamedTuple):
    """N images of C classes."""

    embeddings: np.ndarray
    """float [N, D]."""
    labels: np.ndarray
    """int [N], 0 to C - 1; every class has an image."""
    pixels: np.ndarray
    """uint8 [N, s, s, 3]."""
    classes: Sequence[str]
    """C names."""
    files: Sequence[str]
    """N names."""

    def picture(self, row: int, note: str = "", kind: str = "") -> Picture:
        """The picture of an image, with the name of its class."""
        return page.picture(self.pixels[row], self.classes[self.labels[row]], note, kind)

    def most_central(self, rows: np.ndarray, centre: np.ndarray) -> int:
        """The one of `rows` int [n] whose embedding is nearest to `centre` float [D]."""
        return int(rows[((self.embeddings[rows] - centre[None, :]) ** 2).sum(1).argmin()])


def rows_by_code(codes: np.ndarray) -> list[np.ndarray]:
    """The places of 0, of 1 and so on in `codes` int [N], each in ascending order."""
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


def class_map(images: Images, seed: int) -> dict[str, Any]:
    """The most central picture of each class in a full grid, near where the plane of class means has it.

    Of more than 150 classes, so many random ones. Returns the number of columns, and the pictures by row; None where
    the grid has more cells than there are classes.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    classes = np.random.default_rng(seed).permutation(len(images.classes))[:MAPPED_CLASSES]
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
        "shown": len(classes),
        "pictures": [
            images.picture(central[class_of[i]]) if i in class_of else None for i in range(len(cells))
        ],
    }


def queries(images: Images, seed: int) -> list[tuple[Picture, list[Picture]]]:
    """Random images, each of another class, with their nearest ones."""
    sizes = np.bincount(images.labels)
    rng = np.random.default_rng(seed)
    asked = np.sort(rng.permutation(np.flatnonzero(sizes > 1))[:QUERIES])
    chosen = np.array([rng.choice(np.flatnonzero(images.labels == c)) for c in asked], int)
    strips = []
    for block, nearest in neighbours(images.embeddings, NEIGHBOURS, chosen):
        for query, rows in zip(block, nearest, strict=True):
            right = images.labels[rows] == images.labels[query]
            pictures = [
                images.picture(row, kind="right" if same else "wrong")
                for row, same in zip(rows, right, strict=True)
            ]
            strips.append((images.picture(query, "query:", "query"), pictures))
    return strips
