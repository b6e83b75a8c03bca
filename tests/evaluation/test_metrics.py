"""Metrics against scikit-learn, plain loops and cases worked by hand."""

import math
import tracemalloc

import numpy as np
import pytest
import sklearn.metrics

from jaxml.evaluation import metrics, neighbours


def partition(seed, n=60, classes=7, clusters=9):
    """Clusters that agree with classes in part, with non-contiguous class ids."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    clusters = np.where(rng.random(n) < 0.5, labels, rng.integers(0, clusters, n))
    return clusters, labels * 3 + 5


def scattered(seed=0, d=5, noise=1.0):
    """Embeddings near their class centre; class sizes differ and two classes are singletons."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([0, 1, 2, 3, 4, 5, 90, 91], [3, 4, 5, 7, 9, 10, 1, 1]))
    centres = rng.normal(size=(92, d))
    return centres[labels] + noise * rng.normal(size=(len(labels), d)), labels


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed):
    clusters, labels = partition(seed)
    assert 0.05 < metrics.nmi(clusters, labels) < 0.95
    assert metrics.nmi(clusters, labels) == pytest.approx(
        sklearn.metrics.normalized_mutual_info_score(labels, clusters), abs=1e-12
    )
    assert metrics.ari(clusters, labels) == pytest.approx(
        sklearn.metrics.adjusted_rand_score(labels, clusters), abs=1e-12
    )
    assert metrics.ami(clusters, labels) == pytest.approx(
        sklearn.metrics.adjusted_mutual_info_score(labels, clusters), abs=1e-12
    )
    table = sklearn.metrics.cluster.contingency_matrix(labels, clusters)
    assert metrics.purity(clusters, labels) == pytest.approx(table.max(0).sum() / len(labels), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_against_a_loop(seed):
    clusters, labels = partition(seed)
    both = in_cluster = in_class = 0
    for i in range(len(labels)):
        for j in range(i):
            both += clusters[i] == clusters[j] and labels[i] == labels[j]
            in_cluster += clusters[i] == clusters[j]
            in_class += labels[i] == labels[j]
    precision, recall = both / in_cluster, both / in_class
    expected = 2 * precision * recall / (precision + recall)
    assert metrics.pairwise_f1(clusters, labels) == pytest.approx(expected, abs=1e-12)


def test_clustering_by_hand():
    clusters = np.array([0, 0, 0, 1, 1, 1])
    labels = np.array([7, 7, 8, 8, 8, 9])
    # Pairs sharing both: {0,1}, {3,4}; sharing a cluster: 3 + 3; sharing a class: 1 + 3.
    assert metrics.pairwise_f1(clusters, labels) == pytest.approx(2 * 2 / (6 + 4))
    assert metrics.purity(clusters, labels) == pytest.approx(4 / 6)
    # E = 6 * 4 / 15 pairs.
    assert metrics.ari(clusters, labels) == pytest.approx((2 - 1.6) / (5 - 1.6))
    h_clusters = math.log(2)
    h_labels = -(2 * math.log(2 / 6) + 3 * math.log(3 / 6) + math.log(1 / 6)) / 6
    joint = -(2 * math.log(2 / 6) + math.log(1 / 6) + 2 * math.log(2 / 6) + math.log(1 / 6)) / 6
    nmi = 2 * (h_clusters + h_labels - joint) / (h_clusters + h_labels)
    assert metrics.nmi(clusters, labels) == pytest.approx(nmi)


N = 30
ONE, EACH = np.zeros(N, int), np.arange(N)
HALVES = EACH % 2


@pytest.mark.parametrize(
    ("clusters", "labels", "expected"),
    [
        ([4], [2], {"nmi": 1, "ami": 1, "ari": 1, "f1": 1, "purity": 1}),
        (ONE, ONE, {"nmi": 1, "ami": 1, "ari": 1, "f1": 1, "purity": 1}),
        (EACH, EACH[::-1], {"nmi": 1, "ami": 1, "ari": 1, "f1": 1, "purity": 1}),
        (HALVES, 1 - HALVES, {"nmi": 1, "ami": 1, "ari": 1, "f1": 1, "purity": 1}),
        (ONE, EACH, {"nmi": 0, "ami": 0, "ari": 0, "f1": 0, "purity": 1 / N}),
        (EACH, ONE, {"nmi": 0, "ami": 0, "ari": 0, "f1": 0, "purity": 1}),
        (ONE, HALVES, {"nmi": 0, "ami": 0, "ari": 0, "purity": 1 / 2}),
    ],
    ids=["one image", "one class", "all singletons", "renamed", "lumped", "split", "one cluster"],
)
def test_degenerate_partitions(clusters, labels, expected):
    for name, value in expected.items():
        got = metrics.CLUSTERING[name](np.asarray(clusters), np.asarray(labels))
        assert got == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("name", metrics.CLUSTERING)
def test_every_clustering_metric(name):
    metric = metrics.CLUSTERING[name]
    clusters, labels = partition(3)
    value = metric(clusters, labels)
    assert isinstance(value, float)
    assert 0 < value < 1
    assert metric(labels, labels) == pytest.approx(1.0)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    assert metric(clusters[shuffled], labels[shuffled]) == pytest.approx(value)
    assert metric(100 - clusters, labels) == pytest.approx(value)
    with pytest.raises(ValueError, match="same length"):
        metric(clusters[:-1], labels)
    with pytest.raises(ValueError, match="non-empty"):
        metric(clusters[:0], labels[:0])


def test_original_metrics_by_hand():
    clusters = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    labels = np.array([5, 5, 6, 5, 5, 6, 6, 5])
    named = metrics.majority_class(clusters, labels)
    np.testing.assert_array_equal(named, [5, 5, 5, 5, 5, 6, 6, 6])
    assert metrics.original_f1(clusters, labels) == pytest.approx(np.mean(named == labels))
    assert metrics.original_f1(clusters, labels) == pytest.approx(
        sklearn.metrics.f1_score(labels, named, average="micro")
    )
    assert metrics.original_nmi(clusters, labels) == pytest.approx(
        sklearn.metrics.normalized_mutual_info_score(labels, named)
    )
    assert metrics.original_nmi(clusters, labels) != pytest.approx(metrics.nmi(clusters, labels), abs=1e-3)


def test_majority_tie_goes_to_the_lowest_label():
    np.testing.assert_array_equal(metrics.majority_class(np.array([1, 1]), np.array([9, 3])), [3, 3])


def retrieval_by_loops(embeddings, labels, ks):
    """Definitions, one query and one neighbour at a time."""
    values = {f"{name}@{k}": [] for name in ("recall", "precision") for k in ks}
    values |= {"r_precision": [], "map@r": []}
    for q in range(len(labels)):
        others = [i for i in range(len(labels)) if i != q]
        others.sort(key=lambda i, q=q: (math.dist(embeddings[q], embeddings[i]), i))
        hits = [labels[i] == labels[q] for i in others]
        r = sum(hits)
        if r == 0:
            continue
        for k in ks:
            values[f"recall@{k}"].append(float(any(hits[:k])))
            values[f"precision@{k}"].append(sum(hits[:k]) / len(hits[:k]))
        values["r_precision"].append(sum(hits[:r]) / r)
        values["map@r"].append(sum(sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]) / r)
    return {name: sum(v) / len(v) for name, v in values.items()} | {"queries": len(values["map@r"])}


@pytest.mark.parametrize("block_bytes", [1, 8 * 40 * 7, 2**20])
def test_retrieval_against_loops(block_bytes, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", block_bytes)
    embeddings, labels = scattered()
    expected = retrieval_by_loops(embeddings, labels, metrics.KS)
    got = metrics.retrieval(embeddings, labels)
    assert got.keys() == expected.keys()
    assert got["queries"] == len(labels) - 2
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-12), name
    assert 0 < got["map@r"] < got["r_precision"] < got["recall@1"] < got["recall@8"] < 1
    assert metrics.recall_at_k(embeddings, labels) == {k: got[f"recall@{k}"] for k in metrics.KS}
    assert metrics.precision_at_k(embeddings, labels, [1, 4]) == {k: got[f"precision@{k}"] for k in (1, 4)}


def test_as_many_neighbours_as_are_asked_for():
    embeddings, labels = scattered(2, noise=3.0)
    labels = np.concatenate([labels, np.full(200, 7)])
    embeddings = np.concatenate(
        [embeddings, np.random.default_rng(1).normal(size=(200, 5)) + np.array([4, 0, 0, 0, 0])]
    )
    ks = [1, 50, 230]
    expected = retrieval_by_loops(embeddings, labels, ks)
    got = metrics.retrieval(embeddings, labels, metrics.at(ks), depth=230)
    assert got == pytest.approx(expected, abs=1e-12)
    assert metrics.recall_at_k(embeddings, labels, ks) == {k: got[f"recall@{k}"] for k in ks}
    few = embeddings[:40], labels[:40] // 50  # classes smaller than the number of neighbours
    assert metrics.precision_at_k(*few, [39])[39] == pytest.approx(
        retrieval_by_loops(*few, [39])["precision@39"]
    )


def test_retrieval_by_hand():
    embeddings = np.array([[0.0], [1.0], [3.0], [7.0], [15.0]])
    labels = np.array([0, 1, 0, 0, 2])
    # Neighbours in order: of 0: 1 2 3 4; of 2: 1 0 3 4 (distances 2, 3, 4, 12); of 3: 2 1 0 4; 1 and 4 are alone.
    got = metrics.retrieval(embeddings, labels)
    assert got["queries"] == 3
    assert got["recall@1"] == pytest.approx(1 / 3)
    assert got["recall@2"] == 1
    assert got["precision@2"] == pytest.approx(1 / 2)
    assert got["precision@32"] == pytest.approx(1 / 2)
    assert got["r_precision"] == pytest.approx(1 / 2)
    assert got["map@r"] == pytest.approx((1 / 4 + 1 / 4 + 1 / 2) / 3)


@pytest.mark.parametrize("name", metrics.RETRIEVAL)
def test_every_retrieval_metric(name):
    embeddings, labels = scattered(1)
    value = metrics.retrieval(embeddings, labels)[name]
    assert 0 < value <= 1
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    assert metrics.retrieval(3 * embeddings @ rotation + 100, labels)[name] == pytest.approx(value, abs=1e-12)
    few = np.arange(8) // 4
    perfect = metrics.retrieval(np.eye(2)[few] + 1e-3 * embeddings[:8, :2], few)[name]
    k = int(name.split("@")[1]) if name.startswith("precision@") else 1
    assert perfect == pytest.approx(3 / min(max(k, 3), 7))


def test_near_duplicates_far_from_the_origin_are_told_apart():
    embeddings = 100 + 1e-5 * np.array([[0.0, 0], [1, 0], [3, 0], [4.5, 0]])
    assert metrics.recall_at_k(embeddings, [0, 0, 1, 1], [1]) == {1: 1.0}


def test_memory_does_not_grow_with_the_square(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", 2**20)
    n = 4000
    embeddings = np.random.default_rng(0).normal(size=(n, 4))
    tracemalloc.start()
    metrics.retrieval(embeddings, np.arange(n) // 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * n * n / 10


def test_identical_embeddings_are_not_rewarded():
    labels = np.repeat(np.arange(10), 10)
    assert metrics.recall_at_k(np.ones((100, 4)), labels, [1])[1] < 0.3


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]], ids=["one image", "all singletons"])
def test_nothing_to_retrieve(labels):
    got = metrics.retrieval(np.arange(2.0 * len(labels)).reshape(-1, 2), labels)
    assert got.pop("queries") == 0
    assert got.keys() == metrics.RETRIEVAL.keys()
    assert all(math.isnan(value) for value in got.values())


def test_one_class_is_all_hits():
    got = metrics.retrieval(np.random.default_rng(0).normal(size=(12, 3)), np.zeros(12, int))
    assert got.pop("queries") == 12
    assert all(value == pytest.approx(1) for value in got.values())


def test_bad_embeddings():
    with pytest.raises(ValueError, match="shape"):
        metrics.retrieval(np.ones(3), [0, 1, 2])
    with pytest.raises(ValueError, match=r"labels must be an integer array \[3\]"):
        metrics.retrieval(np.ones((3, 2)), [0, 1])
    with pytest.raises(ValueError, match="NaN"):
        metrics.retrieval(np.full((3, 2), np.nan), [0, 1, 1])
