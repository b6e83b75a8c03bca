"""Metrics of rankings by labels of several levels, such as species, family and order.

An image that shares only the query's family is a smaller mistake than one that shares nothing. These metrics judge the
whole ranking of the gallery by how many levels each image shares with the query. With a single level `h_ap` is the
average precision.

To add a metric, write one function and add one row to `HIERARCHICAL`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from jaxml import arguments
from jaxml.evaluation.neighbours import NONE, Search, neighbours

Metric = Callable[[np.ndarray, int], np.ndarray]


def h_ap(shared: np.ndarray, levels: int) -> np.ndarray:
    """Hierarchical average precision of each query, in (0, 1].

        (1 / sum_k rel_k) sum_k (1 / k) sum_{j <= k} min(rel_j, rel_k),    rel_k = (l_k / L) / n(l_k)

    l_k is the number of levels that the image at rank k shares with the query, L the number of levels, and n(l) the
    number of images that share l levels; rel_k is 0 where l_k is.

    Takes shared int [Q, M] and L (see `HIERARCHICAL`), returns float64 [Q]. Source: Ramzi et al. 2022 (HAPPIER,
    arXiv:2207.04873), with the relevance of its experiments and alpha = 1.

    Example:
        >>> h_ap(np.array([[2, 1, 0], [1, 2, 0]]), levels=2).tolist()
        [1.0, 0.8333333333333334]
    """
    relevance = np.zeros(shared.shape)
    at_level, relevance_of = [], []
    for level in range(1, levels + 1):
        here = shared == level
        of_level = level / levels / np.maximum(here.sum(1, keepdims=True), 1)
        relevance += here * of_level
        at_level.append(here)
        relevance_of.append(of_level)
    weights = sum(
        np.minimum(relevance, of_level) * here.cumsum(1)
        for here, of_level in zip(at_level, relevance_of, strict=True)
    )
    return (weights / _ranks(shared)).sum(1) / relevance.sum(1)


def ndcg(shared: np.ndarray, levels: int) -> np.ndarray:
    """Normalised discounted cumulative gain of each query, in (0, 1].

        DCG / the DCG of the best ranking,    DCG = sum_k (2^l_k - 1) / log2(1 + k)

    l_k is the number of levels that the image at rank k shares with the query.

    Takes shared int [Q, M] and the number of levels (see `HIERARCHICAL`), returns float64 [Q]. Source: Järvelin,
    Kekäläinen 2002, with the gains of Burges et al. 2005.

    Example:
        >>> ndcg(np.array([[2, 1, 0], [1, 2, 0]]), levels=2).round(4).tolist()
        [1.0, 0.7967]
    """
    discounts = np.log2(1 + _ranks(shared))
    gained = ((2.0**shared - 1) / discounts).sum(1)
    return gained / ((2.0 ** _best(shared) - 1) / discounts).sum(1)


def asi(shared: np.ndarray, levels: int) -> np.ndarray:
    """Average set intersection of each query with the best ranking, in [0, 1].

        (1 / R) sum_{k <= R} (1 / k) sum_{l >= 1} min(images that share l levels among the first k, the same at best)

    R is the number of images that share any level with the query.

    Takes shared int [Q, M] and the number of levels (see `HIERARCHICAL`), returns float64 [Q]. Source: Fagin et al.
    2003; as a metric of embeddings Sun et al. 2021 (arXiv:2103.11781).

    Example:
        >>> asi(np.array([[2, 1, 0], [1, 2, 0]]), levels=2).tolist()
        [1.0, 0.5]
    """
    best = _best(shared)
    common = sum(
        np.minimum((shared == level).cumsum(1), (best == level).cumsum(1)) for level in range(1, levels + 1)
    )
    within = best > 0
    return (common / _ranks(shared) * within).sum(1) / within.sum(1)


HIERARCHICAL: dict[str, Metric] = {"h_ap": h_ap, "ndcg": ndcg, "asi": asi}
"""Metrics of Q queries, by their names in results: each takes shared int [Q, M], how many levels of labels the image at
each rank shares with the query, at least one image any, and the number of levels, and returns float64 [Q]."""


def hierarchical(
    embeddings: np.ndarray,
    levels: Sequence[np.ndarray],
    rows: Mapping[str, Metric] | None = None,
    *,
    queries: np.ndarray | None = None,
    gallery: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    search: Search = neighbours,
) -> dict[str, float]:
    """Means of metrics by labels of several levels, over all queries with an image that shares any.

    The whole gallery is ranked for each query, in blocks, so that the time grows with Q M log M. Recall and the other
    metrics by the labels of one level are those of `retrieval`.

    Args:
        embeddings: float [N, D].
        levels: int [L, N], the labels of each level, from the finest to the coarsest. Images of one class of a level
            must be of one class of the next.
        rows: metrics in the form of `HIERARCHICAL`, which is the default.
        queries: int [Q], places of the queries, as in `retrieval`.
        gallery: int [M], places of the images that can be found, as there.
        groups: int [N], as there; no query finds an image of its own group.
        search: ranks the images, as there.

    Returns:
        The mean of each metric, and as `queries` how many queries counted. With none every metric is NaN.

    Raises:
        ValueError: embeddings or labels have another shape, embeddings are not finite, places are not in embeddings, or
            a class lies in several classes of the next level.

    Example:
        >>> x = np.array([[0.0], [1.0], [3.0], [7.0], [8.0]])
        >>> species, families = np.array([0, 0, 1, 2, 2]), np.array([0, 0, 0, 1, 1])
        >>> hierarchical(x, [species, families])
        {'h_ap': 1.0, 'ndcg': 1.0, 'asi': 1.0, 'queries': 5.0}
    """
    rows = HIERARCHICAL if rows is None else rows
    embeddings = arguments.matrix("embeddings", embeddings)
    labels = _nested(levels, len(embeddings))
    totals = dict.fromkeys(rows, 0.0)
    count = 0
    for asked, near in search(embeddings, len(embeddings), queries, gallery, groups):
        shared = ((labels[:, near] == labels[:, asked, None]) & (near != NONE)).sum(0)
        shared = shared[shared.any(1)]
        count += len(shared)
        for name, metric in rows.items():
            totals[name] += float(metric(shared, len(labels)).sum())
    means = {name: total / count if count else float("nan") for name, total in totals.items()}
    return {**means, "queries": float(count)}


def _nested(levels: Sequence[np.ndarray], count: int) -> np.ndarray:
    """The labels int [L, count] of all levels, each counted from 0, if each level divides the next."""
    if not len(levels):
        raise ValueError("levels must hold the labels of at least one level, from the finest to the coarsest")
    rows = [
        np.unique(arguments.labels(f"levels[{i}]", level, count), return_inverse=True)[1]
        for i, level in enumerate(levels)
    ]
    for i, (fine, coarse) in enumerate(pairwise(rows)):
        first = np.unique(fine, return_index=True)[1]
        if (astray := coarse != coarse[first[fine]]).any():
            label = np.asarray(levels[i])[np.argmax(astray)]
            raise ValueError(
                f"levels must go from the finest to the coarsest: images with label {label} of levels[{i}] have "
                f"different labels in levels[{i + 1}]"
            )
    return np.stack(rows)


def _ranks(shared: np.ndarray) -> np.ndarray:
    return np.arange(1, shared.shape[1] + 1)[None, :]


def _best(shared: np.ndarray) -> np.ndarray:
    """The rows [Q, M] in the order that a perfect ranking has them."""
    return -np.sort(-shared, axis=1)
