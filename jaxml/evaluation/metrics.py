"""How well clusters and neighbours agree with classes; host-side NumPy, one row per metric in explicit dicts.

Clustering metrics take `(clusters, labels)`, both int [N], and return a float. Retrieval metrics take every
image as a query against all other images (nearest by Euclidean distance, itself left out), block by block, so
that 60,000 embeddings need no N x N memory. A query whose class has no other image can have no right answer:
such singletons are left out of the mean, and `retrieval` says how many queries counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from jaxml import arguments
from jaxml.evaluation.neighbours import neighbours

KS = (1, 2, 4, 8, 16, 32)


# Clusters against classes --------------------------------------------------------------------------------


def contingency(clusters: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Non-zero cells of the (cluster, class) table: counts, cluster and class positions, all [nnz].

    Positions number the distinct values in sorted order. Raises ValueError for empty input or other shapes.
    """
    clusters, labels = arguments.labels("clusters", clusters), arguments.labels("labels", labels)
    if clusters.shape != labels.shape:
        raise ValueError(
            f"clusters and labels must have the same length; got {len(clusters)} and {len(labels)}"
        )
    _, rows = np.unique(clusters, return_inverse=True)
    _, columns = np.unique(labels, return_inverse=True)
    num_classes = int(columns.max()) + 1
    cells, counts = np.unique(rows.astype(np.int64) * num_classes + columns, return_counts=True)
    return counts, cells // num_classes, cells % num_classes


def _entropy(counts: np.ndarray) -> float:
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def nmi(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Normalised mutual information, 2 I(clusters; labels) / (H(clusters) + H(labels)), in [0, 1].

    The arithmetic mean, as in scikit-learn and Song et al. 2016 (arXiv:1511.06452). 1 where both
    have one group, 0 where only one of them has.
    """
    counts, rows, columns = contingency(clusters, labels)
    row_sums, column_sums = np.bincount(rows, counts), np.bincount(columns, counts)
    if len(row_sums) == len(column_sums) == 1:
        return 1.0
    if len(row_sums) == 1 or len(column_sums) == 1:
        return 0.0
    h_clusters, h_labels = _entropy(row_sums), _entropy(column_sums)
    information = h_clusters + h_labels - _entropy(counts)
    return float(np.clip(2 * information / (h_clusters + h_labels), 0.0, 1.0))


def ami(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Mutual information above chance, (I - E[I]) / ((H(clusters) + H(labels)) / 2 - E[I]), at most 1.

    Computed by scikit-learn. Source: Vinh, Epps, Bailey 2010, table 2, arithmetic mean.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    contingency(clusters, labels)
    with warnings.catch_warnings():
        # scikit-learn suspects regression targets where over half of the labels are distinct.
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        return float(adjusted_mutual_info_score(np.asarray(labels), np.asarray(clusters)))


def _pairs(clusters: np.ndarray, labels: np.ndarray) -> tuple[float, float, float, float]:
    """Pairs of images that share both, share a cluster, share a class, and all pairs."""
    counts, rows, columns = contingency(clusters, labels)

    def choose2(n: np.ndarray) -> float:
        return float((n * (n - 1)).sum()) / 2

    return (
        choose2(counts),
        choose2(np.bincount(rows, counts)),
        choose2(np.bincount(columns, counts)),
        choose2(counts.sum(keepdims=True)),
    )


def ari(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Adjusted Rand index: pairs that share cluster and class, above chance; 1 at best, about 0 at random.

    (both - E) / ((in_cluster + in_class) / 2 - E) with E = in_cluster * in_class / pairs. Source: Hubert,
    Arabie 1985, equation 5. 1 where clusters and classes are the same partition, however degenerate.
    """
    both, in_cluster, in_class, pairs = _pairs(clusters, labels)
    if both == in_cluster == in_class:
        return 1.0
    expected = in_cluster * in_class / pairs
    return (both - expected) / ((in_cluster + in_class) / 2 - expected)


def pairwise_f1(clusters: np.ndarray, labels: np.ndarray) -> float:
    """F1 over pairs of images, 2 P R / (P + R), in [0, 1].

    P: the share of same-cluster pairs that share a class; R: the share of same-class pairs that share a
    cluster. Source: Song et al. 2016 (arXiv:1511.06452). Where neither has a pair (all singletons
    on both sides) the partitions are the same and the value is 1; where no pair shares both it is 0.
    """
    both, in_cluster, in_class, _ = _pairs(clusters, labels)
    if in_cluster == in_class == 0:
        return 1.0
    return 2 * both / (in_cluster + in_class)


def purity(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose class is the most frequent one of their cluster; more clusters, higher purity."""
    counts, rows, _ = contingency(clusters, labels)
    largest = np.zeros(rows.max() + 1, counts.dtype)
    np.maximum.at(largest, rows, counts)
    return float(largest.sum() / counts.sum())


def majority_class(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The most frequent class of each image's cluster, [N]; the lowest label wins a tie."""
    counts, rows, columns = contingency(clusters, labels)
    order = np.lexsort((columns, -counts, rows))
    _, first = np.unique(rows[order], return_index=True)
    named = np.unique(labels)[columns[order][first]]
    return named[np.unique(clusters, return_inverse=True)[1]]


CLUSTERING: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "nmi": nmi,
    "ami": ami,
    "ari": ari,
    "f1": pairwise_f1,
    "purity": purity,
}


# The original's numbers: they use labels -----------------------------------------------------------------


def original_nmi(clusters: np.ndarray, labels: np.ndarray) -> float:
    """NMI of Shah 2017: USES LABELS twice, so it flatters; only for comparison with the original's table.

    `clusters` come from K-means started at images chosen by true label (`evaluate.label_seeded_clusters`);
    every cluster is then renamed to its majority class, which merges clusters, before NMI is taken.
    """
    return nmi(majority_class(clusters, labels), labels)


def original_f1(clusters: np.ndarray, labels: np.ndarray) -> float:
    """ "F1" of Shah 2017: USES LABELS as `original_nmi` does, and is not the pairwise F1 of Song et al.

    Micro-averaged accuracy after naming each cluster by its majority class, which is the purity.
    """
    return purity(clusters, labels)


ORIGINAL: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "original_nmi": original_nmi,
    "original_f1": original_f1,
}


# Neighbours against classes ------------------------------------------------------------------------------


def recall(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Recall@K per query: 1 if any of its k nearest shares its class (Song et al. 2016, arXiv:1511.06452)."""
    return np.any(hits[:, :k], axis=1).astype(np.float64)


def precision(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Precision@K per query, the neighbour accuracy: share of its k nearest that share its class."""
    return np.mean(hits[:, :k], axis=1)


def r_precision(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """R-precision per query: share of its R nearest that share its class, R being how many images do."""
    within = np.arange(hits.shape[1])[None, :] < relevant[:, None]
    return (hits & within).sum(1) / relevant


def map_at_r(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """MAP@R per query, (1/R) sum_{i <= R} P(i) [i-th is right], P(i) the precision of the i nearest.

    Source: Musgrave et al. 2020 (arXiv:2003.08505).
    """
    ranks = np.arange(1, hits.shape[1] + 1)[None, :]
    within = ranks <= relevant[:, None]
    return (hits.cumsum(1) / ranks * (hits & within)).sum(1) / relevant


# Each row takes hits bool [Q, depth], whether the i-th nearest shares the query's class, and relevant [Q], how
# many other images do (R, from 1 to depth), and returns one value per query, [Q].
RETRIEVAL: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    **{f"recall@{k}": partial(recall, k=k) for k in KS},
    **{f"precision@{k}": partial(precision, k=k) for k in KS},
    "r_precision": r_precision,
    "map@r": map_at_r,
}


def retrieval(
    embeddings: np.ndarray, labels: np.ndarray, rows: dict[str, Callable] | None = None
) -> dict[str, float]:
    """Means of the `RETRIEVAL` metrics (or of `rows`) over queries that have a right answer, in one sweep.

    embeddings [N, D], labels int [N]. `queries` is how many counted: images whose class has another image.
    With none (one image, or all singletons) there is nothing to measure and every metric is NaN.
    """
    rows = RETRIEVAL if rows is None else rows
    embeddings = arguments.matrix("embeddings", embeddings)
    labels = arguments.labels("labels", labels, len(embeddings))
    _, positions, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    relevant = sizes[positions] - 1
    depth = max(max(KS), int(relevant.max(initial=0)))
    totals = dict.fromkeys(rows, 0.0)
    count = 0
    for queries, near in neighbours(embeddings, depth):
        answerable = relevant[queries] > 0
        if not answerable.any():
            continue
        queries, near = queries[answerable], near[answerable]
        hits = positions[near] == positions[queries][:, None]
        count += len(queries)
        for name, metric in rows.items():
            totals[name] += float(metric(hits, relevant[queries]).sum())
    means = {name: total / count if count else float("nan") for name, total in totals.items()}
    return {**means, "queries": float(count)}


def _depths(ks: Sequence[int]) -> list[int]:
    if not isinstance(ks, Sequence | np.ndarray) or len(ks) == 0:
        raise ValueError(f"ks must be whole numbers of at least 1, got {ks!r}")
    return [arguments.whole("ks", k) for k in ks]


def recall_at_k(embeddings: np.ndarray, labels: np.ndarray, ks: Sequence[int] = KS) -> dict[int, float]:
    """Recall@K, {k: share of queries with a right image among their k nearest}; see `retrieval`."""
    found = retrieval(embeddings, labels, {str(k): partial(recall, k=k) for k in _depths(ks)})
    return {k: found[str(k)] for k in ks}


def precision_at_k(embeddings: np.ndarray, labels: np.ndarray, ks: Sequence[int] = KS) -> dict[int, float]:
    """Precision@K, the neighbour accuracy, {k: share of the k nearest that are right}; see `retrieval`."""
    found = retrieval(embeddings, labels, {str(k): partial(precision, k=k) for k in _depths(ks)})
    return {k: found[str(k)] for k in ks}
