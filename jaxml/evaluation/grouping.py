"""Clusters of unlabelled pictures: how many there are, and how certain the cluster of each picture is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxml.evaluation.clustering import cluster

RATIO = 1.2  # between successive numbers of clusters tried
SMALLEST = 4  # embeddings in a cluster, on average, where the most clusters are tried
PATIENCE = 6  # numbers tried without improvement before the search ends


@dataclass(frozen=True)
class Groups:
    """The clusters of N embeddings: k of them, numbered from the largest to the smallest."""

    clusters: np.ndarray
    """int [N], 0 to k - 1."""
    distance: np.ndarray
    """float32 [N], Euclidean distance to the mean of the own cluster."""
    runner_up: np.ndarray
    """int [N], the other cluster whose mean is nearest; -1 where there is only one cluster."""
    confidence: np.ndarray
    """float32 [N], (b - a) / max(a, b), where a and b are the distances to the means of the own cluster and of the
    runner-up: 1 at the own mean, 0 halfway. Source: Hruschka et al. 2004, simplified silhouette."""

    @property
    def count(self) -> int:
        """Number of clusters."""
        return int(self.clusters.max()) + 1

    def members(self, number: int) -> np.ndarray:
        """Places int [n] of the embeddings of a cluster, the most central first."""
        rows = np.flatnonzero(self.clusters == number)
        return rows[np.argsort(self.distance[rows], kind="stable")]


def group(embeddings: np.ndarray, num_clusters: int, *, seed: int = 0) -> Groups:
    """Clusters of embeddings by K-means as `evaluate` scores it: k-means++, the best of 10 starts.

    Args:
        embeddings: float [N, D].
        num_clusters: 1 to N.
        seed: random seed of K-means.

    Returns:
        The clusters; those without an embedding are left out.

    Raises:
        ValueError: there are more clusters than embeddings, or the embeddings are no matrix or not finite.

    Example:
        >>> groups = group(np.array([[0.0], [0.2], [0.4], [5.0]]), 2)
        >>> groups.clusters.tolist(), groups.members(0).tolist()
        ([0, 0, 0, 1], [1, 0, 2])
    """
    x = np.asarray(embeddings, np.float64)
    _, found, sizes = np.unique(
        cluster(embeddings, num_clusters, seed=seed), return_inverse=True, return_counts=True
    )
    order = np.argsort(-sizes, kind="stable")
    clusters = np.argsort(order)[found]
    means = np.zeros((len(sizes), x.shape[1]))
    np.add.at(means, clusters, x)
    means /= sizes[order][:, None]
    own = np.linalg.norm(x - means[clusters], axis=1)
    if len(sizes) == 1:
        alone = np.full(len(x), -1)
        return Groups(clusters, own.astype(np.float32), alone, np.ones(len(x), np.float32))
    # Squared distances to all means, less the square of the embedding, which does not change their order.
    others = (means**2).sum(1)[None, :] - 2 * x @ means.T
    others[np.arange(len(x)), clusters] = np.inf
    runner_up = others.argmin(1)
    other = np.linalg.norm(x - means[runner_up], axis=1)
    confidence = (other - own) / np.maximum(np.maximum(own, other), 1e-12)
    return Groups(clusters, own.astype(np.float32), runner_up, confidence.astype(np.float32))


def choose(embeddings: np.ndarray, *, seed: int = 0) -> dict[int, float]:
    """The Bayesian information criterion of each number of clusters that was tried; the highest is the choice.

    K-means is read as a mixture of k spherical Gaussians of one variance. With N embeddings in D dimensions, n_j of
    them in cluster j, and J the sum of their squared distances to the means of their clusters, it is, without
    constants,

        BIC = sum_j n_j log(n_j / N) - N D / 2 log(J / (N D)) - k (D + 1) / 2 log N

    The numbers tried begin at 1, and each is RATIO times the one before. The search ends when none of the last
    PATIENCE numbers was better, or when clusters would have fewer than SMALLEST embeddings on average. On unseen
    classes the silhouette is highest at two to five clusters, and HDBSCAN assigns most pictures to no cluster.
    Source: Pelleg, Moore 2000 (X-means), section 3.2.

    Args:
        embeddings: float [N, D].
        seed: random seed of K-means.

    Returns:
        The criterion divided by N, for each number of clusters.

    Raises:
        ValueError: the embeddings are no matrix or not finite.

    Example:
        >>> x = np.concatenate([centre + np.random.default_rng(0).normal(size=(20, 2)) for centre in (0, 50, 100)])
        >>> scores = choose(x)
        >>> max(scores, key=scores.__getitem__)
        3
    """
    x = np.asarray(embeddings, np.float64)
    count, width = x.shape
    scores: dict[int, float] = {}
    number = 1.0
    while round(number) <= max(1, count // SMALLEST):
        k = round(number)
        found = cluster(embeddings, k, seed=seed, n_init=1)
        sizes = np.bincount(found, minlength=k)
        sums = np.zeros((k, width))
        np.add.at(sums, found, x)
        spread = ((x - (sums / np.maximum(sizes, 1)[:, None])[found]) ** 2).sum() / (count * width)
        share = sizes[sizes > 0] / count
        likelihood = (share * np.log(share)).sum() - width / 2 * np.log(max(spread, 1e-12))
        scores[k] = float(likelihood - k * (width + 1) / 2 * np.log(count) / count)
        if max(list(scores.values())[-PATIENCE:]) < max(scores.values()):
            break
        number = max(number * RATIO, k + 1)
    return scores
