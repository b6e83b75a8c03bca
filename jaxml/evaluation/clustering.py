"""K-means of embeddings, and its scores."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from jaxml import arguments
from jaxml.evaluation import kmeans, metrics

MANY = 1000
"""Clusters up to which scikit-learn computes K-means."""
STARTS = 10
"""Starts of a K-means that is scored."""


class Engine(NamedTuple):
    """How K-means is computed."""

    name: str
    """scikit-learn, or jaxml's own on the devices there are."""
    starts: int
    """Of which the one with the least inertia is kept."""
    iterations: int
    """At most so many in each."""


def engine(num_clusters: int, starts: int) -> Engine:
    """The engine for a number of clusters, and what is left of the starts: one, from MANY clusters on.

    Published scores of data sets with thousands of classes come from one start of at most 25 iterations.

    Raises:
        ValueError: one of them is no whole number of at least 1.

    Example:
        >>> engine(100, starts=10).starts, engine(11_316, starts=10).starts
        (10, 1)
    """
    arguments.whole("starts", starts)
    if arguments.whole("num_clusters", num_clusters) <= MANY:
        return Engine("scikit-learn", starts, 300)
    return Engine("jaxml", 1, 25)


def _kmeans(
    embeddings: np.ndarray,
    num_clusters: int,
    seeds: Sequence[int],
    *,
    n_init: int,
    starts: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """One K-means of embeddings [N, D] for each seed: clusters int32 [N] each.

    Each begins with k-means++, or with the centres [num_clusters, D] of its seed in `starts`.
    """
    x = np.ascontiguousarray(arguments.matrix("embeddings", embeddings), np.float32)
    if arguments.whole("num_clusters", num_clusters) > len(x):
        raise ValueError(
            f"K-means makes 1 to {len(x)} clusters of {len(x)} images; num_clusters is {num_clusters}"
        )
    arguments.whole("n_init", n_init)
    for seed in seeds:
        arguments.whole("seed", seed, 0, 2**32 - 1)

    chosen = engine(num_clusters, n_init)
    if chosen.name == "scikit-learn":
        return _scikit_learn(x, num_clusters, seeds, chosen, starts)
    begins = starts if starts else (kmeans.spread(x, num_clusters, seed) for seed in seeds)
    return [kmeans.kmeans(x, begin, iterations=chosen.iterations)[0] for begin in begins]


def _scikit_learn(
    x: np.ndarray,
    num_clusters: int,
    seeds: Sequence[int],
    chosen: Engine,
    starts: Sequence[np.ndarray] | None,
) -> list[np.ndarray]:
    """One K-means of x float32 [N, D] for each seed, each in a thread."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    def fit(seed: int, init: str | np.ndarray) -> np.ndarray:
        # OpenMP keeps its limit for each thread, so it is set inside the thread.
        with threadpool_limits(1):
            options = {"n_init": chosen.starts, "max_iter": chosen.iterations, "random_state": seed}
            return KMeans(num_clusters, init=init, **options).fit_predict(x)

    begins: Sequence[str | np.ndarray] = starts if starts else ["k-means++"] * len(seeds)
    # Each run has one thread. Threads inside a run would wait for each other in every short iteration, which is slow
    # where cores are busy, and the order of their sums would vary.
    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        # scikit-learn warns where collapsed embeddings have fewer distinct points than clusters; the metrics show that.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return list(pool.map(fit, seeds, begins))


def cluster(embeddings: np.ndarray, num_clusters: int, *, seed: int = 0, n_init: int = 10) -> np.ndarray:
    """Clusters of embeddings by K-means, which sees no label.

    It begins with k-means++ and keeps the best of `n_init` starts; with more than MANY clusters see `engine`. With
    num_clusters = classes x clusters_per_class this is the first of the clusterings that `evaluate` scores.

    Args:
        embeddings: float [N, D]; computed in float32.
        num_clusters: 1 to N.
        seed: random seed of the starts.
        n_init: number of starts.

    Returns:
        int32 [N]: the cluster of each embedding, 0 to num_clusters - 1.

    Raises:
        ValueError: there are more clusters than embeddings, or the embeddings are no matrix or not finite.

    Example:
        >>> clusters = cluster(np.array([[0.0], [0.1], [5.0], [5.1]]), 2)
        >>> bool(clusters[0] == clusters[1] != clusters[2] == clusters[3])
        True
    """
    return _kmeans(embeddings, num_clusters, [seed], n_init=n_init)[0]


def label_seeded_clusters(
    embeddings: np.ndarray, labels: np.ndarray, seeds: Sequence[int], *, clusters_per_class: int = 1
) -> list[np.ndarray]:
    """K-means started from images of every class, as in Shah 2017. It USES LABELS, so it flatters.

    Only `original_nmi` and `original_f1` are taken of its clusters.

    Args:
        embeddings: float [N, D]; computed in float32.
        labels: int [N].
        seeds: one K-means is run for each.
        clusters_per_class: the first centres are so many random images of each class (all, where it has fewer), chosen
            anew for each seed.

    Returns:
        Clusters int32 [N] for each seed.

    Raises:
        ValueError: embeddings or labels have another shape, or embeddings are not finite.

    Example:
        >>> x, labels = np.array([[0.0], [0.1], [5.0], [5.1]]), np.array([3, 3, 8, 8])
        >>> [clusters.tolist() for clusters in label_seeded_clusters(x, labels, seeds=[0])]
        [[0, 0, 1, 1]]
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
    ks: Sequence[int] = metrics.KS,
    queries: np.ndarray | None = None,
    gallery: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> dict[str, float]:
    """All metrics of embeddings with labels: of clustering, of retrieval, and those of Shah 2017.

    K-means sees no labels: it begins with k-means++, keeps the best of 10 starts (with more than MANY clusters see
    `engine`), and makes classes x clusters_per_class clusters. Clustering metrics are means over its seeds.
    `original_nmi` and `original_f1` start from true labels (see `jaxml.metrics`). Retrieval metrics, such as `recall@1`
    and `map@r`, need no K-means. Among several processes, each one that calls this computes all of it on its own
    devices, with the same values for the same arrays.

    Args:
        embeddings: float [N, D].
        labels: int [N].
        clusters_per_class: K-means clusters for each class.
        kmeans_seeds: number of K-means runs, with the seeds seed, seed + 1, ...
        seed: the first of them.
        ks: numbers of neighbours at which recall and precision are taken.
        queries: int [Q], places of the queries, as in `jaxml.metrics.retrieval`; all embeddings are clustered.
        gallery: int [M], places of the images that queries can find, as there.
        groups: int [N], as there; no query finds an image of its own group.

    Returns:
        Values by name, as in `CLUSTERING`, `ORIGINAL` and `RETRIEVAL` of `jaxml.metrics`, with `queries` (see
        `retrieval`). With more than one run, `nmi_std` and so on are standard deviations over the runs.

    Raises:
        ValueError: embeddings or labels have another shape, embeddings are not finite, or there are more clusters than
            images.

    Example:
        >>> scores = evaluate(np.array([[0.0], [0.1], [5.0], [5.1]]), np.array([3, 3, 8, 8]), kmeans_seeds=2)
        >>> scores["nmi"], scores["nmi_std"], scores["recall@1"]
        (1.0, 0.0, 1.0)
    """
    embeddings = arguments.matrix("embeddings", embeddings)
    labels = arguments.labels("labels", labels, len(embeddings))
    arguments.whole("kmeans_seeds", kmeans_seeds)
    arguments.whole("clusters_per_class", clusters_per_class)
    arguments.whole("seed", seed, 0)
    seeds = range(seed, seed + kmeans_seeds)
    num_clusters = len(np.unique(labels)) * clusters_per_class
    free = _kmeans(embeddings, num_clusters, seeds, n_init=STARTS)
    seeded = label_seeded_clusters(embeddings, labels, seeds, clusters_per_class=clusters_per_class)
    results = {}
    for rows, runs in ((metrics.CLUSTERING, free), (metrics.ORIGINAL, seeded)):
        for name, metric in rows.items():
            values = [metric(clusters, labels) for clusters in runs]
            results[name] = float(np.mean(values))
            if kmeans_seeds > 1:
                results[f"{name}_std"] = float(np.std(values, ddof=1))
    found = metrics.retrieval(
        embeddings, labels, metrics.at(ks), queries=queries, gallery=gallery, groups=groups, depth=max(ks)
    )
    return {**results, **found}


def validate(
    embeddings: np.ndarray, labels: np.ndarray, *, clusters_per_class: int = 1, seed: int = 0
) -> dict[str, float]:
    """The label-free metrics from one K-means of 3 starts, which are cheap enough to repeat during training.

    Args:
        embeddings: float [N, D].
        labels: int [N].
        clusters_per_class: K-means clusters for each class.
        seed: random seed of K-means.

    Returns:
        Values by name, as in `CLUSTERING` and `RETRIEVAL` of `jaxml.metrics`, with `queries`.

    Raises:
        ValueError: embeddings or labels have another shape, embeddings are not finite, or there are more clusters than
            images.

    Example:
        >>> scores = validate(np.array([[0.0], [0.1], [5.0], [5.1]]), np.array([3, 3, 8, 8]))
        >>> scores["nmi"], scores["recall@1"]
        (1.0, 1.0)
    """
    embeddings = arguments.matrix("embeddings", embeddings)
    labels = arguments.labels("labels", labels, len(embeddings))
    num_clusters = len(np.unique(labels)) * arguments.whole("clusters_per_class", clusters_per_class)
    clusters = cluster(embeddings, num_clusters, seed=seed, n_init=3)
    scores = {name: metric(clusters, labels) for name, metric in metrics.CLUSTERING.items()}
    return {**scores, **metrics.retrieval(embeddings, labels)}
