"""Clusters of pictures whose classes nobody knows: how many there are, and how sure each picture's place is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxml.data.index import ImageError
from jaxml.data.sources.unlabelled import Pictures
from jaxml.evaluation.clustering import cluster
from jaxml.files import printable

RATIO = 1.2  # between successive numbers of clusters tried
SMALLEST = 4  # embeddings in a cluster, on average, where the most clusters are tried
PATIENCE = 6  # numbers tried in vain before the best one stands


@dataclass(frozen=True)
class Groups:
    """N embeddings in k clusters, numbered from the largest to the smallest."""

    clusters: np.ndarray
    """int [N], 0 to k - 1."""
    distance: np.ndarray
    """float32 [N], to the mean of the own cluster."""
    runner_up: np.ndarray
    """int [N], the other cluster with the nearest mean; -1 where there is only one cluster."""
    confidence: np.ndarray
    """float32 [N], (b - a) / max(a, b), with a and b the distances to the means of the own cluster and of the
    runner-up: 1 at the own mean, 0 halfway. Source: Hruschka et al. 2004, simplified silhouette."""

    @property
    def count(self) -> int:
        """Number of clusters."""
        return int(self.clusters.max()) + 1

    def members(self, number: int) -> np.ndarray:
        """Rows of a cluster, the most central first."""
        rows = np.flatnonzero(self.clusters == number)
        return rows[np.argsort(self.distance[rows], kind="stable")]


def embed(
    pictures: Pictures, network: Callable[[np.ndarray], np.ndarray], *, size: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Embeddings [n, D] of the pictures that can be read, their rows int [n], and what is wrong with each other file.

    `network` takes pixels uint8 [b, size, size, 3], b at most `batch_size`. Raises ImageError if no picture can be
    read.
    """
    found, rows, batch, errors = [], [], [], {}
    for i, pixels in enumerate(pictures.decode(size)):
        if isinstance(pixels, ImageError):
            errors[pictures.names[i]] = str(pixels)
        else:
            rows.append(i)
            batch.append(pixels)
        if batch and (len(batch) == batch_size or i == len(pictures) - 1):
            found.append(network(np.stack(batch)))
            batch = []
    if not rows:
        first = next(iter(errors.values()))
        raise ImageError(
            first
            if len(errors) == 1
            else f"none of the {len(errors)} files in {printable(pictures.root)} can be read: {first}"
        )
    return np.concatenate(found), np.array(rows), errors


def group(embeddings: np.ndarray, num_clusters: int, *, seed: int = 0) -> Groups:
    """K-means as `evaluate` scores it (k-means++, the best of 10 starts): embeddings [N, D] -> groups.

    Raises ValueError for more clusters than embeddings and for embeddings that are not finite.
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
    """Bayesian information criterion, per embedding, for each number of clusters tried; the highest is the choice.

    K-means is read as a mixture of k spherical Gaussians of one variance: with N embeddings in D dimensions, n_j of
    them in cluster j, and J their summed squared distances to the means of their clusters,

      BIC = sum_j n_j log(n_j / N) - N D / 2 log(J / (N D)) - k (D + 1) / 2 log N,

    constants left out. Source: Pelleg, Moore 2000 (X-means), section 3.2. Numbers tried run from 1, each RATIO times
    the one before, until none of the last PATIENCE was better or clusters would have under SMALLEST embeddings on
    average. On unseen classes the silhouette is highest at two to five clusters, and HDBSCAN leaves most pictures over.
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


def nearest(embeddings: np.ndarray, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows int [count] of embeddings [N, D] in the order of their distance to a query [D], and the distances."""
    distances = np.linalg.norm(embeddings - query[None, :], axis=1)
    rows = np.argsort(distances, kind="stable")[:count]
    return rows, distances[rows]
