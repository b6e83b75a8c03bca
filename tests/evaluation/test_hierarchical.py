"""Metrics by labels of several levels: against loops, and scikit-learn where it has them."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from jaxml import metrics
from jaxml.evaluate import reranked


def scene(seed, count=90, species=12):
    """Embeddings of images near those of their species, near those of their family, near those of their order."""
    rng = np.random.default_rng(seed)
    of_species = rng.integers(0, species, count)
    families, orders = np.arange(species) // 3, np.arange(species) // 6
    centres = rng.normal(size=(4, 5))[families] + rng.normal(size=(2, 5))[orders]
    centres += rng.normal(size=(species, 5))
    embeddings = centres[of_species] + rng.normal(size=(count, 5))
    return embeddings, [of_species + 5, families[of_species], 7 - orders[of_species]]


def by_loops(embeddings, levels, queries, gallery, groups):
    """Every metric, one query and one rank at a time."""
    found = {"h_ap": [], "ndcg": [], "asi": []}
    for q in queries:
        seen = [i for i in gallery if groups[i] != groups[q]]
        seen.sort(key=lambda i, q=q: (math.dist(embeddings[q], embeddings[i]), i))
        shared = [sum(bool(level[i] == level[q]) for level in levels) for i in seen]
        if not any(shared):
            continue
        relevance = [0.0 if s == 0 else s / len(levels) / shared.count(s) for s in shared]
        ranks = [
            sum(min(relevance[j], relevance[k]) for j in range(k + 1)) / (k + 1) for k in range(len(shared))
        ]
        found["h_ap"].append(sum(ranks) / sum(relevance))
        best = sorted(shared, reverse=True)
        gains, limits = (
            sum((2**s - 1) / math.log2(k + 2) for k, s in enumerate(row)) for row in (shared, best)
        )
        found["ndcg"].append(gains / limits)
        right = len(shared) - shared.count(0)
        common = [
            sum(
                min(shared[:k].count(s), best[:k].count(s)) for s in range(1, len(levels) + 1)
            ) / k
            for k in range(1, right + 1)
        ]  # fmt: skip
        found["asi"].append(sum(common) / right)
    return {name: float(np.mean(values)) for name, values in found.items()} | {"queries": len(found["asi"])}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_against_loops(count):
    embeddings, levels = scene(count)
    levels = levels[:count]
    every = np.arange(len(embeddings))
    found = metrics.hierarchical(embeddings, levels)
    want = by_loops(embeddings, levels, every, every, every)
    assert found == pytest.approx(want, abs=1e-12)
    assert all(0.2 < found[name] < 0.95 for name in metrics.HIERARCHICAL)


def test_queries_gallery_and_groups():
    embeddings, levels = scene(4)
    order = np.random.default_rng(0).permutation(len(embeddings))
    queries, gallery, groups = order[:30], order[20:], levels[0] * 2 + order % 2
    found = metrics.hierarchical(embeddings, levels, queries=queries, gallery=gallery, groups=groups)
    assert found == pytest.approx(by_loops(embeddings, levels, queries, gallery, groups), abs=1e-12)


def test_scikit_learn_has_the_gain_and_the_precision_of_one_level():
    embeddings, levels = scene(5)
    distances = np.linalg.norm(embeddings[:, None] - embeddings, axis=-1)
    others = ~np.eye(len(embeddings), dtype=bool)
    shared = np.sum([level[:, None] == level for level in levels], axis=0)
    gains = [
        ndcg_score([2.0 ** s[o] - 1], [-d[o]]) for s, d, o in zip(shared, distances, others, strict=True)
    ]
    found = metrics.hierarchical(embeddings, levels)
    assert found["ndcg"] == pytest.approx(np.mean(gains), abs=1e-12)
    precisions = [
        average_precision_score(s[o] == 3, -d[o]) for s, d, o in zip(shared, distances, others, strict=True)
    ]
    single = metrics.hierarchical(embeddings, levels[:1])
    assert single["h_ap"] == pytest.approx(np.mean(precisions), abs=1e-12)


def test_queries_that_share_nothing_do_not_count():
    embeddings = np.array([[0.0], [1.0], [5.0]])
    assert metrics.hierarchical(embeddings, [np.array([0, 0, 1])])["queries"] == 2
    assert metrics.hierarchical(embeddings, [np.array([0, 1, 2]), np.array([0, 0, 1])])["queries"] == 2
    nothing = metrics.hierarchical(embeddings, [np.arange(3)])
    assert nothing.pop("queries") == 0
    assert np.isnan(list(nothing.values())).all()


def test_another_ranking_and_other_metrics():
    embeddings, levels = scene(6)
    first = {"first": lambda shared, count: shared[:, 0] / count}
    found = metrics.hierarchical(embeddings, levels, first, search=reranked())
    near = next(reranked()(embeddings, 1))[1][:, 0]
    want = np.mean([np.sum([level[i] == level[j] for level in levels]) / 3 for i, j in enumerate(near)])
    assert found["first"] == pytest.approx(want)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([], "levels must hold the labels of at least one level"),
        ([[0, 0, 1], [0, 1, 1]], "images with label 0 of levels[0] have different labels in levels[1]"),
        (
            [[0, 4, 4], [0, 1, 1], [5, 6, 7]],
            "images with label 1 of levels[1] have different labels in level",
        ),
        ([[0, 0, 1], [0, 1]], "levels[1] must be an integer array [3], got shape (2,)"),
    ],
)
def test_wrong_levels(levels, message):
    with pytest.raises(ValueError) as error:
        metrics.hierarchical(np.eye(3), levels)
    assert message in str(error.value)
