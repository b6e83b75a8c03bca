"""Metrics of the nearest images of queries, the nearest by Euclidean distance.

Every image is a query against all others, unless queries and a gallery are given. The search goes block by block, so
that 60,000 embeddings need no memory of N x N. A query without another image of its class to find has no right answer;
it is left out of the mean, and `retrieval` says how many queries counted.

To add a metric, write one function and add one row to `RETRIEVAL`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from jaxml import arguments
from jaxml.evaluation.neighbours import NONE, Search, neighbours
from jaxml.evaluation.protocol import Protocol

Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]
KS = (1, 2, 4, 8, 16, 32)
"""Numbers of neighbours at which recall and precision are taken."""


def recall(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Recall@K of each query: 1 if any of its k nearest shares its class, else 0.

    Takes hits bool [Q, depth] and relevant int [Q] (see `RETRIEVAL`), returns float64 [Q]. Source: Song et al. 2016
    (arXiv:1511.06452).

    Example:
        >>> recall(np.array([[False, True, False], [True, False, False]]), np.array([2, 2]), k=1).tolist()
        [0.0, 1.0]
    """
    return np.any(hits[:, :k], axis=1).astype(np.float64)


def precision(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Precision@K of each query, the neighbour accuracy: the share of its k nearest that share its class.

    Takes hits bool [Q, depth] and relevant int [Q] (see `RETRIEVAL`), returns float64 [Q].

    Example:
        >>> precision(np.array([[False, True, False], [True, False, False]]), np.array([2, 2]), k=2).tolist()
        [0.5, 0.5]
    """
    return np.mean(hits[:, :k], axis=1)


def r_precision(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """R-precision of each query: the share of its R nearest that share its class, R being how many images do.

    Takes hits bool [Q, depth] and relevant int [Q] (see `RETRIEVAL`), returns float64 [Q].

    Example:
        >>> r_precision(np.array([[False, True, True], [True, False, False]]), np.array([2, 1])).tolist()
        [0.5, 1.0]
    """
    within = np.arange(hits.shape[1])[None, :] < relevant[:, None]
    return (hits & within).sum(1) / relevant


def map_at_r(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Mean average precision at R of each query, R being how many images share its class.

        (1 / R) sum_{i <= R} P(i) [the i-th nearest shares the class], P(i) the precision of the i nearest

    Takes hits bool [Q, depth] and relevant int [Q] (see `RETRIEVAL`), returns float64 [Q]. Source: Musgrave et al. 2020
    (arXiv:2003.08505).

    Example:
        >>> map_at_r(np.array([[False, True, True], [True, False, False]]), np.array([2, 1])).tolist()
        [0.25, 1.0]
    """
    ranks = np.arange(1, hits.shape[1] + 1)[None, :]
    within = ranks <= relevant[:, None]
    return (hits.cumsum(1) / ranks * (hits & within)).sum(1) / relevant


def average_precision(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Average precision of each query over all `depth` neighbours; its mean is the mean average precision, MAP.

        (1 / R) sum_i P(i) [the i-th nearest shares the class], P(i) the precision of the i nearest, R = relevant

    Takes hits bool [Q, depth] and relevant int [Q] (see `RETRIEVAL`), returns float64 [Q]. Source: Zheng et al. 2015
    (Market-1501), section 3.2, without interpolation.

    Example:
        >>> average_precision(np.array([[False, True, True], [True, False, False]]), np.array([2, 1])).round(4).tolist()
        [0.5833, 1.0]
    """
    ranks = np.arange(1, hits.shape[1] + 1)[None, :]
    return (hits.cumsum(1) / ranks * hits).sum(1) / relevant


def reciprocal_rank(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """1 / the rank of the nearest image that shares the query's class, 0 if it is not found; the mean of it is the MRR.

    Takes hits bool [Q, depth] and relevant int [Q] (see `RETRIEVAL`), returns float64 [Q]. Source: Voorhees 1999 (the
    TREC-8 question answering track).

    Example:
        >>> reciprocal_rank(np.array([[False, True, True], [True, False, False]]), np.array([2, 1])).tolist()
        [0.5, 1.0]
    """
    return np.where(hits.any(1), 1 / (1 + hits.argmax(1)), 0.0)


def at(ks: Sequence[int]) -> dict[str, Metric]:
    """The metrics of `RETRIEVAL`, with recall and precision at other numbers of neighbours.

    Example:
        >>> list(at([1, 1000]))
        ['recall@1', 'recall@1000', 'precision@1', 'precision@1000', 'r_precision', 'map@r']
    """
    depths = arguments.counts("ks", ks)
    return {
        **{f"recall@{k}": partial(recall, k=k) for k in depths},
        **{f"precision@{k}": partial(precision, k=k) for k in depths},
        "r_precision": r_precision,
        "map@r": map_at_r,
    }


RETRIEVAL = at(KS)
"""Metrics of Q queries, by their names in results: each takes hits bool [Q, depth], whether the i-th nearest image
shares the query's class, and relevant int [Q], how many other images do (from 1 to depth), and returns float64
[Q]."""


def retrieval(
    embeddings: np.ndarray,
    labels: np.ndarray,
    rows: Mapping[str, Metric] | None = None,
    *,
    queries: np.ndarray | None = None,
    gallery: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    depth: int = max(KS),
    search: Search = neighbours,
) -> dict[str, float]:
    """Means of retrieval metrics over all queries that have a right answer.

    Args:
        embeddings: float [N, D].
        labels: int [N].
        rows: metrics in the form of `RETRIEVAL`, which is the default.
        queries: int [Q], places of the queries; all by default.
        gallery: int [M], places of the images that can be found; all by default.
        groups: int [N]; no query finds an image of its own group. By default each image is a group, so that none finds
            itself. In re-identification a group is all images of one person by one camera.
        depth: how many neighbours are looked at; more, where a class has more images. `average_precision` and
            `reciprocal_rank` as they are published take all of the gallery.
        search: ranks the images, by distance if not given; `jaxml.evaluate.reranked()` is another.

    Returns:
        The mean of each metric, and as `queries` how many queries counted: those with an image of their class to find.
        With none (one image, or all classes of one image) there is nothing to measure and every metric is NaN.

    Raises:
        ValueError: embeddings or labels have another shape, embeddings are not finite, or places are not in embeddings.

    Example:
        >>> found = retrieval(np.array([[0.0], [1.0], [5.0], [6.0], [9.0]]), np.array([0, 0, 1, 1, 2]))
        >>> found["recall@1"], found["map@r"], found["queries"]
        (1.0, 1.0, 4.0)
    """
    rows = RETRIEVAL if rows is None else rows
    embeddings = arguments.matrix("embeddings", embeddings)
    labels = arguments.labels("labels", labels, len(embeddings))
    classes = np.unique(labels, return_inverse=True)[1]
    protocol = Protocol.of(len(labels), queries, gallery, groups)
    relevant = protocol.relevant(classes)
    depth = max(arguments.whole("depth", depth), int(relevant[protocol.queries].max(initial=0)))
    totals = dict.fromkeys(rows, 0.0)
    count = 0
    for asked, near in search(embeddings, depth, queries, gallery, groups):
        answerable = relevant[asked] > 0
        if not answerable.any():
            continue
        asked, near = asked[answerable], near[answerable]
        hits = (classes[near] == classes[asked][:, None]) & (near != NONE)
        count += len(asked)
        for name, metric in rows.items():
            totals[name] += float(metric(hits, relevant[asked]).sum())
    means = {name: total / count if count else float("nan") for name, total in totals.items()}
    return {**means, "queries": float(count)}


def recall_at_k(embeddings: np.ndarray, labels: np.ndarray, ks: Sequence[int] = KS) -> dict[int, float]:
    """Recall@K for each k: the share of queries with an image of their class among their k nearest.

    Takes embeddings float [N, D] and labels int [N]; queries count and errors are raised as by `retrieval`.

    Example:
        >>> recall_at_k(np.array([[0.0], [1.0], [5.0], [3.0]]), np.array([0, 0, 1, 1]), ks=[1, 2])
        {1: 0.75, 2: 1.0}
    """
    return _at_each(recall, embeddings, labels, ks)


def precision_at_k(embeddings: np.ndarray, labels: np.ndarray, ks: Sequence[int] = KS) -> dict[int, float]:
    """Precision@K for each k, the neighbour accuracy: the share of the k nearest that are of the query's class.

    Takes embeddings float [N, D] and labels int [N]; queries count and errors are raised as by `retrieval`.

    Example:
        >>> precision_at_k(np.array([[0.0], [1.0], [5.0], [3.0]]), np.array([0, 0, 1, 1]), ks=[1, 2])
        {1: 0.75, 2: 0.5}
    """
    return _at_each(precision, embeddings, labels, ks)


def _at_each(
    metric: Callable[..., np.ndarray], embeddings: np.ndarray, labels: np.ndarray, ks: Sequence[int]
) -> dict[int, float]:
    """The mean of recall or precision over all queries, for each k."""
    depths = arguments.counts("ks", ks)
    rows = {str(k): partial(metric, k=k) for k in depths}
    found = retrieval(embeddings, labels, rows, depth=max(depths))
    return {k: found[str(k)] for k in depths}
