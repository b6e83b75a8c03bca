"""How well each class is found and clustered, and the classes that it is taken for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxml.evaluation.neighbours import neighbours

ALONE = -1  # in place of a nearest image


class Classes(NamedTuple):
    """C classes, and the pairs of them that are confused."""

    sizes: np.ndarray
    """int [C], images of each class."""
    recall: np.ndarray
    """float [C], Recall@1; NaN where a class has one image."""
    cluster: np.ndarray
    """int [C], the cluster that holds most of the class; the lowest of several."""
    purity: np.ndarray
    """float [C], the share of the class among the images of that cluster."""
    pairs: np.ndarray
    """int [P, 3], each a class, the class it is taken for, and the images whose nearest image says so; the most
    frequent first, and then in the order of the classes."""


def nearest_images(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The nearest other image of each of the embeddings float [N, D], int [N]; ALONE for one alone in its class.

    An image that is alone in its class of `labels` int [N] is no query, for no other image would be right.
    """
    nearest = np.full(len(labels), ALONE)
    queries = np.flatnonzero(np.bincount(labels)[labels] > 1)
    for rows, near in neighbours(embeddings, 1, queries):
        nearest[rows] = near[:, 0]
    return nearest


def summarise(labels: np.ndarray, clusters: np.ndarray, nearest: np.ndarray) -> Classes:
    """The classes of N images.

    Args:
        labels: int [N], 0 to C - 1; every class has an image.
        clusters: int [N], 0 to K - 1; every cluster has an image.
        nearest: int [N], of `nearest_images`.

    Example:
        >>> found = summarise(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]), np.array([1, 0, 0, 2]))
        >>> found.recall.tolist(), found.cluster.tolist(), found.purity.round(2).tolist(), found.pairs.tolist()
        ([1.0, 0.5], [0, 0], [0.67, 0.33], [[1, 0, 1]])
    """
    sizes, cluster_sizes = np.bincount(labels), np.bincount(clusters)
    queries = np.flatnonzero(nearest != ALONE)
    asked, found = labels[queries], labels[nearest[queries]]
    right = np.bincount(asked[asked == found], minlength=len(sizes))
    recall = np.where(sizes > 1, right / sizes, np.nan)
    # Of each class, the cluster with most of its images comes first.
    cells, counts = np.unique(np.stack([labels, clusters], axis=1), axis=0, return_counts=True)
    order = np.lexsort((cells[:, 1], -counts, cells[:, 0]))
    first = order[np.unique(cells[order, 0], return_index=True)[1]]
    main = cells[first, 1]
    wrong = asked != found
    pairs, times = np.unique(np.stack([asked[wrong], found[wrong]], axis=1), axis=0, return_counts=True)
    pairs = np.concatenate([pairs, times[:, None]], axis=1)
    return Classes(
        sizes, recall, main, counts[first] / cluster_sizes[main], pairs[np.argsort(-times, kind="stable")]
    )
