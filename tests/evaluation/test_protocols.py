"""Retrieval with queries, gallery and groups: against loops, Market-1501's rule, and others' code for both."""

import importlib.metadata
import math
import runpy
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from jaxml import metrics
from jaxml.config import Config
from jaxml.data import Retrieval
from jaxml.evaluation import neighbours
from jaxml.evaluation.metrics import verification
from jaxml.training import results

FULL = {
    **metrics.RETRIEVAL,
    "map": metrics.average_precision,
    "mrr": metrics.reciprocal_rank,
}


def scene(seed, count=150, classes=12, cameras=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    embeddings = rng.normal(size=(classes, 6))[labels] + 0.8 * rng.normal(size=(count, 6))
    return embeddings, labels, rng.integers(0, cameras, count), rng.permutation(count)


def by_loops(embeddings, labels, queries, gallery, groups, depth):
    """Every metric of FULL, one query and one image at a time, and how many queries counted."""
    values = {name: [] for name in FULL}
    for q in queries:
        seen = [i for i in gallery if groups[i] != groups[q]]
        seen.sort(key=lambda i, q=q: (math.dist(embeddings[q], embeddings[i]), i))
        right = sum(labels[i] == labels[q] for i in seen)
        if not right:
            continue
        # Where groups hide images, the missing ones count as wrong.
        hits = [labels[i] == labels[q] for i in seen[:depth]] + [False] * (
            min(depth, len(gallery)) - len(seen)
        )
        precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits)) if hits[i]]
        for k in metrics.KS:
            values[f"recall@{k}"].append(float(any(hits[:k])))
            values[f"precision@{k}"].append(sum(hits[:k]) / len(hits[:k]))
        values["r_precision"].append(sum(hits[:right]) / right)
        values["map@r"].append(sum(precisions[: sum(hits[:right])]) / right)
        values["map"].append(sum(precisions) / right)
        values["mrr"].append(1 / (1 + hits.index(True)) if True in hits else 0.0)
    return {name: float(np.mean(v)) for name, v in values.items()} | {"queries": len(values["map"])}


@pytest.mark.parametrize("large", [0, neighbours.LARGE])
@pytest.mark.parametrize("depth", [40, 1000])
def test_queries_gallery_and_groups_against_loops(large, depth, monkeypatch):
    monkeypatch.setattr(neighbours, "LARGE", large)
    embeddings, labels, cameras, order = scene(0)
    queries, gallery, groups = order[:50], order[40:], 100 * labels + cameras
    got = metrics.retrieval(
        embeddings, labels, FULL, queries=queries, gallery=gallery, groups=groups, depth=depth
    )
    want = by_loops(embeddings, labels, queries, gallery, groups, depth)
    assert got == pytest.approx(want, abs=1e-12)
    assert 0 < got["map@r"] < got["map"] < got["mrr"] < 1


def test_the_default_depth_holds_every_right_answer():
    embeddings, labels, _, order = scene(1, count=300, classes=3)
    queries, gallery = order[:20], order[20:]
    got = metrics.retrieval(embeddings, labels, queries=queries, gallery=gallery)
    want = by_loops(embeddings, labels, queries, gallery, np.arange(300), 300)
    assert got == pytest.approx({name: want[name] for name in got}, abs=1e-12)


def market_1501(embeddings, people, cameras, queries, gallery):
    """Zheng et al. 2015: images of the query's person by the query's camera are neither right nor wrong."""
    first, precisions = [], []
    for q in queries:
        order = sorted(gallery, key=lambda i, q=q: (math.dist(embeddings[q], embeddings[i]), i))
        order = [i for i in order if not (people[i] == people[q] and cameras[i] == cameras[q])]
        right = [rank for rank, i in enumerate(order) if people[i] == people[q]]
        if right:
            first.append(right[0])
            precisions.append(np.mean([(found + 1) / (rank + 1) for found, rank in enumerate(right)]))
    return {f"recall@{k}": np.mean([rank < k for rank in first]) for k in (1, 5, 10)} | {
        "map": np.mean(precisions)
    }


def test_the_rule_of_market_1501():
    embeddings, people, cameras, order = scene(2, count=400, classes=30, cameras=6)
    queries, gallery = order[:100], order[100:]
    _, groups = np.unique(np.stack([people, cameras]), axis=1, return_inverse=True)
    rows = {
        f"recall@{k}": (lambda hits, relevant, k=k: metrics.recall(hits, relevant, k)) for k in (1, 5, 10)
    }
    rows["map"] = metrics.average_precision
    got = metrics.retrieval(
        embeddings, people, rows, queries=queries, gallery=gallery, groups=groups, depth=len(gallery)
    )
    want = market_1501(embeddings, people, cameras, queries, gallery)
    assert {name: got[name] for name in want} == pytest.approx(want, abs=1e-12)
    assert 0.1 < got["recall@1"] < 0.95


@pytest.mark.parametrize("block_bytes", [1, 2**20])
def test_errors_of_verification_against_loops(block_bytes, monkeypatch):
    monkeypatch.setattr(verification, "BLOCK_BYTES", block_bytes)
    embeddings, labels, cameras, order = scene(5)
    queries, gallery, groups = order[:50], order[40:], 100 * labels + cameras
    for places in ({}, {"groups": groups}, {"queries": queries, "gallery": gallery, "groups": groups}):
        own = places.get("groups", np.arange(150))
        pairs = [
            (math.dist(embeddings[q], embeddings[i]), labels[q] == labels[i])
            for q in places.get("queries", range(150))
            for i in places.get("gallery", range(150))
            if own[q] != own[i]
        ]
        got = metrics.fnmr_at_fmr(embeddings, labels, [0.01, 0.3], **places)
        for rate in (0.01, 0.3):
            limit = np.quantile([far for far, same in pairs if not same], rate)
            want = np.mean([far >= limit for far, same in pairs if same])
            assert got[f"fnmr@{rate}"] == pytest.approx(want, abs=1e-12)
        assert 0 < got["fnmr@0.3"] < got["fnmr@0.01"] < 1


def test_no_pairs_to_verify():
    assert math.isnan(metrics.fnmr_at_fmr(np.eye(3), [0, 1, 2])["fnmr@0.01"])
    assert math.isnan(metrics.fnmr_at_fmr(np.eye(3), [0, 0, 0])["fnmr@0.01"])


def test_what_a_data_set_says_becomes_the_protocol():
    flags = np.array([True, True, False, False, True])
    said = Retrieval(is_query=flags, is_gallery=~flags, sequences=("a", "", "a", "", "b"))
    found = said.protocol()
    assert found["queries"].tolist() == [0, 1, 4]
    assert found["gallery"].tolist() == [2, 3]
    groups = found["groups"].tolist()
    assert groups[0] == groups[2]
    assert len({*groups}) == 4
    assert Retrieval().protocol() == {}
    none = np.zeros(5, bool)
    assert Retrieval(is_query=none, is_gallery=none).protocol() == {}, "training classes have no queries"


def test_the_scores_of_a_run_follow_its_data_set():
    embeddings, labels, cameras, order = scene(4)
    flags = np.zeros(150, bool)
    flags[order[:50]] = True
    sequences = tuple("" if c == 0 else f"{label}, {c}" for label, c in zip(labels, cameras, strict=True))
    said = Retrieval(is_query=flags, is_gallery=~flags, sequences=sequences)
    rows = np.flatnonzero(labels > 3)
    index = SimpleNamespace(labels=labels, retrieval=said)
    opened = SimpleNamespace(images=SimpleNamespace(index=index), config=Config())
    got = results.score(opened, embeddings[rows], rows, ks=(1, 3))
    groups = np.where(cameras == 0, 1000 + np.arange(150), 100 * labels + cameras)
    gallery = [i for i in rows if not flags[i]]
    want = by_loops(embeddings, labels, [i for i in rows if flags[i]], gallery, groups, len(gallery))
    assert got["queries"] == want["queries"] < len(rows)
    assert got["recall@1"] == pytest.approx(want["recall@1"], abs=1e-12)
    assert got["map@r"] == pytest.approx(want["map@r"], abs=1e-12)
    assert {"recall@3", "precision@3"} <= got.keys()
    assert "recall@8" not in got


@pytest.mark.peers
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_agrees_with_pytorch_metric_learning(tied, same):
    """Separate references, and the queries among them; integer coordinates give equal distances."""
    import torch
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    embeddings, labels, _, order = scene(3)
    if tied:
        # Ties are broken in no certain order there, so that equal embeddings have equal labels here.
        embeddings = np.round(np.random.default_rng(0).normal(size=(12, 6)) * 3)[labels]
        embeddings[::7] = np.round(embeddings[::7] / 2)
        _, labels = np.unique(embeddings, axis=0, return_inverse=True)
    queries, gallery = (order, order) if same else (order[:60], order[60:])
    names = {
        "recall@1": "precision_at_1",
        "r_precision": "r_precision",
        "map@r": "mean_average_precision_at_r",
        "map": "mean_average_precision",
        "mrr": "mean_reciprocal_rank",
    }
    search = CustomKNN(LpDistance(normalize_embeddings=False))
    calculator = AccuracyCalculator(tuple(names.values()), k=len(gallery) - same, knn_func=search)
    asked, found = ((torch.tensor(embeddings[rows]), labels[rows]) for rows in (queries, gallery))
    theirs = calculator.get_accuracy(*asked, *found, ref_includes_query=same)
    got = metrics.retrieval(embeddings, labels, FULL, queries=queries, gallery=gallery, depth=len(gallery))
    for name, their in names.items():
        assert got[name] == pytest.approx(theirs[their], abs=1e-6), name


@pytest.fixture(scope="module")
def fast_reid():
    """fast-reid's `eval_market1501`, which it has from torchreid.

    Its file is run by itself, as the package imports much that is not needed here. It warns that it was not compiled.
    """
    path = importlib.metadata.distribution("fastreid").locate_file("fastreid/evaluation/rank.py")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return runpy.run_path(str(path))["eval_market1501"]


@pytest.mark.peers
@pytest.mark.parametrize("large", [0, neighbours.LARGE])
@pytest.mark.parametrize(("seed", "people", "cameras"), [(6, 100, 2), (7, 30, 6), (8, 150, 3), (9, 5, 4)])
def test_agrees_with_fast_reid(seed, people, cameras, large, fast_reid, monkeypatch):
    """Every rank up to 50 and MAP; where there are many people, some queries have nothing to find."""
    monkeypatch.setattr(neighbours, "LARGE", large)
    embeddings, labels, own, order = scene(seed, count=400, classes=people, cameras=cameras)
    queries, gallery = order[:100], order[100:]
    distances = np.linalg.norm(embeddings[queries][:, None] - embeddings[gallery][None], axis=-1)
    assert all(len(np.unique(row)) == len(row) for row in distances)
    ranks, precisions, _ = fast_reid(
        distances, labels[queries], labels[gallery], own[queries], own[gallery], max_rank=50
    )
    _, groups = np.unique(np.stack([labels, own]), axis=1, return_inverse=True)
    places = {"queries": queries, "gallery": gallery, "groups": groups}
    at_ranks = metrics.retrieval(embeddings, labels, metrics.at(range(1, 51)), depth=50, **places)
    got = metrics.retrieval(embeddings, labels, FULL, depth=len(gallery), **places)
    assert [at_ranks[f"recall@{k}"] for k in range(1, 51)] == pytest.approx(ranks, abs=1e-6)
    assert got["map"] == pytest.approx(np.mean(precisions), abs=1e-6)
    assert got["queries"] == len(precisions)
    assert (len(precisions) < len(queries)) == (people >= 100)
    assert 0.01 < got["map"] < 0.99
