"""Embeddings -> K-means -> metrics, on the host."""

from __future__ import annotations

import warnings

import numpy as np

from jaxml import metrics


def _kmeans(embeddings: np.ndarray, num_clusters: int, seed: int, n_init: int, init: object) -> np.ndarray:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    x = np.ascontiguousarray(embeddings, np.float32)
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"embeddings must have shape [N, D] with N > 0; got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("embeddings hold NaN or infinity: the run diverged; lower optim.learning_rate")
    if not 1 <= num_clusters <= len(x):
        raise ValueError(
            f"K-means makes 1 to {len(x)} clusters of {len(x)} images; got {num_clusters} clusters"
        )
    with warnings.catch_warnings():
        # Collapsed embeddings have fewer distinct points than clusters; the metrics show it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(num_clusters, init=init, n_init=n_init, random_state=seed).fit_predict(x)


def cluster(embeddings: np.ndarray, num_clusters: int, *, seed: int = 0, n_init: int = 10) -> np.ndarray:
    """Label-free K-means (k-means++ start, the best of `n_init`): embeddings [N, D] -> clusters int32 [N].

    With `num_clusters` = classes x clusters_per_class this is the first of the clusterings that `evaluate`
    scores. Raises ValueError for more clusters than images and for embeddings that are not finite.
    """
    return _kmeans(embeddings, num_clusters, seed, n_init, "k-means++")


def label_seeded_clusters(
    embeddings: np.ndarray, labels: np.ndarray, *, clusters_per_class: int = 1, seed: int = 0
) -> np.ndarray:
    """K-means started from images of every class, as in Shah 2017: USES LABELS, so it flatters.

    The first centres are `clusters_per_class` random images of each class (all, where it has fewer).
    Only `original_nmi` and `original_f1` use it.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    starts = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        starts.append(rng.choice(members, min(clusters_per_class, len(members)), replace=False))
    chosen = np.concatenate(starts)
    return _kmeans(embeddings, len(chosen), seed, 1, np.asarray(embeddings, np.float32)[chosen])


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
    standard deviations. `original_nmi` and `original_f1` start from true labels (see `jaxml.metrics`).
    Retrieval metrics, such as `recall@1` and `map@r`, need no K-means. Raises ValueError for bad shapes, for
    embeddings that are not finite, and for more clusters than images.
    """
    if kmeans_seeds < 1 or clusters_per_class < 1:
        raise ValueError(
            f"kmeans_seeds and clusters_per_class must be at least 1; "
            f"got {kmeans_seeds} and {clusters_per_class}"
        )
    runs = []
    for s in range(seed, seed + kmeans_seeds):
        runs.append(_score(embeddings, labels, clusters_per_class, s, n_init=10))
        seeded = label_seeded_clusters(embeddings, labels, clusters_per_class=clusters_per_class, seed=s)
        runs[-1] |= {name: metric(seeded, labels) for name, metric in metrics.ORIGINAL.items()}
    results = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        results[name] = float(np.mean(values))
        if kmeans_seeds > 1:
            results[f"{name}_std"] = float(np.std(values, ddof=1))
    return {**results, **metrics.retrieval(embeddings, labels)}


def validate(
    embeddings: np.ndarray, labels: np.ndarray, *, clusters_per_class: int = 1, seed: int = 0
) -> dict[str, float]:
    """The label-free metrics from one K-means of 3 starts: cheap enough to repeat during training."""
    scores = _score(embeddings, labels, clusters_per_class, seed, n_init=3)
    return {**scores, **metrics.retrieval(embeddings, labels)}


def _score(
    embeddings: np.ndarray, labels: np.ndarray, clusters_per_class: int, seed: int, n_init: int
) -> dict[str, float]:
    num_clusters = len(np.unique(labels)) * clusters_per_class
    clusters = cluster(embeddings, num_clusters, seed=seed, n_init=n_init)
    return {name: metric(clusters, labels) for name, metric in metrics.CLUSTERING.items()}
