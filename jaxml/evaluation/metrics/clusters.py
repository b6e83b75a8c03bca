"""Metrics of clusters against classes, computed on the host with NumPy.

A metric takes the clusters and the labels of N images, both int [N], and returns a float. It raises a ValueError
where they are empty, not integers, or of different shapes. Values of clusters and labels are names only: any integers
will do.

To add a metric, write one function and add one row to `CLUSTERING`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from jaxml import arguments


def contingency(clusters: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Non-zero cells of the table of clusters against classes.

    Args:
        clusters: int [N].
        labels: int [N].

    Returns:
        Three arrays int [C], C the number of cells that are not zero: the images in a cell, the place of its cluster
        and the place of its class among the distinct values in sorted order.

    Raises:
        ValueError: clusters or labels are empty, not integers, or of different shapes.

    Example:
        >>> counts, rows, columns = contingency(np.array([0, 0, 1]), np.array([7, 7, 8]))
        >>> counts.tolist(), rows.tolist(), columns.tolist()
        ([2, 1], [0, 1], [0, 1])
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
    """Entropy in nats of the distribution with these counts [n]."""
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def nmi(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Normalised mutual information of clusters int [N] and labels int [N], in [0, 1].

        2 I(clusters; labels) / (H(clusters) + H(labels))

    It is normalised by the arithmetic mean, as in scikit-learn and Song et al. 2016 (arXiv:1511.06452). It is 1 where
    both have one group, and 0 where only one of them has.

    Example:
        >>> nmi(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3]))
        1.0
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
    """Adjusted mutual information of clusters int [N] and labels int [N]: above chance, at most 1.

        (I - E[I]) / ((H(clusters) + H(labels)) / 2 - E[I])

    scikit-learn computes it. Source: Vinh, Epps, Bailey 2010, table 2, arithmetic mean.

    Example:
        >>> round(ami(np.array([0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1])), 3)
        0.251
    """
    from sklearn.metrics import adjusted_mutual_info_score

    contingency(clusters, labels)
    with warnings.catch_warnings():
        # scikit-learn suspects regression targets where over half of the labels are distinct.
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        return float(adjusted_mutual_info_score(np.asarray(labels), np.asarray(clusters)))


def _pairs(clusters: np.ndarray, labels: np.ndarray) -> tuple[float, float, float, float]:
    """Numbers of pairs of images that share both, share a cluster, share a class, and of all pairs.

    Clusters and labels are int [N].
    """
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
    """Adjusted Rand index of clusters int [N] and labels int [N]: 1 at best, about 0 at random.

        (both - E) / ((in_cluster + in_class) / 2 - E), E = in_cluster * in_class / pairs

    It counts the pairs of images that share cluster and class, above chance. It is 1 where clusters and classes are the
    same partition, however degenerate. Source: Hubert, Arabie 1985, equation 5.

    Example:
        >>> round(ari(np.array([0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1])), 3)
        0.167
    """
    both, in_cluster, in_class, pairs = _pairs(clusters, labels)
    if both == in_cluster == in_class:
        return 1.0
    expected = in_cluster * in_class / pairs
    return (both - expected) / ((in_cluster + in_class) / 2 - expected)


def pairwise_f1(clusters: np.ndarray, labels: np.ndarray) -> float:
    """F1 over pairs of images, of clusters int [N] and labels int [N], in [0, 1].

        2 P R / (P + R)

    P is the share of same-cluster pairs that share a class, and R the share of same-class pairs that share a cluster.
    Where neither has a pair the partitions are the same and the value is 1; where no pair shares both it is 0.
    Source: Song et al. 2016 (arXiv:1511.06452).

    Example:
        >>> pairwise_f1(np.array([0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1]))
        0.5
    """
    both, in_cluster, in_class, _ = _pairs(clusters, labels)
    if in_cluster == in_class == 0:
        return 1.0
    return 2 * both / (in_cluster + in_class)


def purity(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose class is the most frequent one of their cluster; clusters int [N], labels int [N].

    It grows with the number of clusters, so it compares clusterings of one number only.

    Example:
        >>> purity(np.array([0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1]))
        0.8
    """
    counts, rows, _ = contingency(clusters, labels)
    largest = np.zeros(rows.max() + 1, counts.dtype)
    np.maximum.at(largest, rows, counts)
    return float(largest.sum() / counts.sum())


def majority_class(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The most frequent class of each image's cluster.

    Args:
        clusters: int [N].
        labels: int [N].

    Returns:
        An array [N] of the type of labels; the lowest label wins a tie.

    Raises:
        ValueError: clusters or labels are empty, not integers, or of different shapes.

    Example:
        >>> majority_class(np.array([0, 0, 1, 1, 1]), np.array([7, 7, 7, 9, 9])).tolist()
        [7, 7, 9, 9, 9]
    """
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
"""Metrics that `evaluate` takes of label-free clusters, by their names in results."""


def original_nmi(clusters: np.ndarray, labels: np.ndarray) -> float:
    """NMI of Shah 2017, of clusters int [N] and labels int [N]. It USES LABELS twice, so it flatters.

    It serves to compare with the original's table only. The clusters come from K-means started at images that were
    chosen by true label (`label_seeded_clusters`). Each cluster is then renamed to its majority class, which merges
    clusters, before NMI is taken.

    Example:
        >>> original_nmi(np.array([0, 1, 2, 2]), np.array([4, 4, 6, 6]))
        1.0
    """
    return nmi(majority_class(clusters, labels), labels)


def original_f1(clusters: np.ndarray, labels: np.ndarray) -> float:
    """F1 as Shah 2017 used the name, of clusters int [N] and labels int [N]. It USES LABELS as `original_nmi` does.

    It is the micro-averaged accuracy after naming each cluster by its majority class, which is the purity; it is not
    the pairwise F1 of Song et al.

    Example:
        >>> original_f1(np.array([0, 0, 1, 1]), np.array([4, 4, 6, 4]))
        0.75
    """
    return purity(clusters, labels)


ORIGINAL: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "original_nmi": original_nmi,
    "original_f1": original_f1,
}
"""Metrics that `evaluate` takes of clusters that were started from true labels, by their names in results."""
