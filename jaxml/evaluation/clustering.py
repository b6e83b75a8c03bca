"""Embeddings -> K-means -> metrics, on the host."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxml import arguments
from jaxml.evaluation import metrics


def _kmeans(
    embeddings: np.ndarray,
    num_clusters: int,
    seeds: Sequence[int],
    *,
    n_init: int,
    starts: Sequence | None = None,
) -> list[np.ndarray]:
    """One K-means for each seed, from k-means++ or from that seed's first centres in `starts`."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    x = np.ascontiguousarray(arguments.matrix("embeddings", embeddings), np.float32)
    if arguments.whole("num_clusters", num_clusters) > len(x):
        raise ValueError(
            f"K-means makes 1 to {len(x)} clusters of {len(x)} images; num_clusters is {num_clusters}"
        )
    arguments.whole("n_init", n_init)
    for seed in seeds:
        arguments.whole("seed", seed, 0, 2**32 - 1)

    def fit(seed: int, init: str | np.ndarray) -> np.ndarray:
        # OpenMP's limit is one per thread, so it is set in here.
        with threadpool_limits(1):
            return KMeans(num_clusters, init=init, n_init=n_init, random_state=seed).fit_predict(x)

    # A thread per run and none inside it: inner threads wait for each other in every short iteration, which is
    # slow where cores are busy, and the order of their sums varies.
    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        # Collapsed embeddings have fewer distinct points than clusters; the metrics show it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return list(pool.map(fit, seeds, starts or ["k-means++"] * len(seeds)))


def cluster(embeddings: np.ndarray, num_clusters: int, *, seed: int = 0, n_init: int = 10) -> np.ndarray:
    """Label-free K-means (k-means++ start, the best of `n_init`): embeddings [N, D] -> clusters int32 [N].

    With `num_clusters` = classes x clusters_per_class this is the first of the clusterings that `evaluate`
    scores. Raises ValueError for more clusters than images and for embeddings that are not finite.
    """
    return _kmeans(embeddings, num_clusters, [seed], n_init=n_init)[0]


def label_seeded_clusters(
    embeddings: np.ndarray, labels: np.ndarray, seeds: Sequence[int], *, clusters_per_class: int = 1
) -> list[np.ndarray]:
    """K-means started from images of every class, as in Shah 2017: USES LABELS, so it flatters.

    The first centres are `clusters_per_class` random images of each class (all, where it has fewer), chosen anew
    for each seed. Returns clusters int32 [N] for each seed. Only `original_nmi` and `original_f1` use it.
    """
    embeddings = arguments.matrix("embeddings", embeddings)
    labels = arguments.labels("labels", labels, len(embeddings))
    arguments.whole("clusters_per_class", clusters_per_class)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    starts = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        chosen = [rng.choice(m, min(clusters_per_class, len(m)), replace=False) for m in members]
        starts.append(np.asarray(embeddings, np.float32)[np.concatenate(chosen)])
    return _kmeans(embeddings, len(starts[0]), seeds, n_init=1, starts=starts)


def evaluate(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    clusters_per_class: int = 1,
    kmeans_seeds: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """All metrics of embeddings [N, D] with labels int [N]: clustering, retrieval, and the original's.

    K-means sees no labels: k-means++, the best of 10 starts, k = classes x clusters_per_class. Clustering
    metrics are means over the seeds seed, seed + 1, ...; with more than one, `nmi_std` and so on are their
    standard deviations. `original_nmi` and `original_f1` start from true labels (see `jaxml.evaluation.metrics`).
    Retrieval metrics, such as `recall@1` and `map@r`, need no K-means. Raises ValueError for bad shapes, for
    embeddings that are not finite, and for more clusters than images.
    """
    embeddings = arguments.matrix("embeddings", embeddings)
    labels = arguments.labels("labels", labels, len(embeddings))
    arguments.whole("kmeans_seeds", kmeans_seeds)
    arguments.whole("clusters_per_class", clusters_per_class)
    arguments.whole("seed", seed, 0)
    seeds = range(seed, seed + kmeans_seeds)
    num_clusters = len(np.unique(labels)) * clusters_per_class
    free = _kmeans(embeddings, num_clusters, seeds, n_init=10)
    seeded = label_seeded_clusters(embeddings, labels, seeds, clusters_per_class=clusters_per_class)
    results = {}
    for rows, runs in ((metrics.CLUSTERING, free), (metrics.ORIGINAL, seeded)):
        for name, metric in rows.items():
            values = [metric(clusters, labels) for clusters in runs]
            results[name] = float(np.mean(values))
            if kmeans_seeds > 1:
                results[f"{name}_std"] = float(np.std(values, ddof=1))
    return {**results, **metrics.retrieval(embeddings, labels)}


def validate(
    embeddings: np.ndarray, labels: np.ndarray, *, clusters_per_class: int = 1, seed: int = 0
) -> dict[str, float]:
    """The label-free metrics from one K-means of 3 starts: cheap enough to repeat during training."""
    embeddings = arguments.matrix("embeddings", embeddings)
    labels = arguments.labels("labels", labels, len(embeddings))
    num_clusters = len(np.unique(labels)) * arguments.whole("clusters_per_class", clusters_per_class)
    clusters = cluster(embeddings, num_clusters, seed=seed, n_init=3)
    scores = {name: metric(clusters, labels) for name, metric in metrics.CLUSTERING.items()}
    return {**scores, **metrics.retrieval(embeddings, labels)}
