"""k-reciprocal re-ranking against plain loops over sets."""

import math

import numpy as np
import pytest

from jaxml import metrics
from jaxml.evaluation.neighbours import NONE
from jaxml.evaluation.reranking import reranked


def by_loops(x, k, queries, gallery, groups, k1, k2, weight):
    """As the paper has it, with sets of images and dictionaries of shares."""
    among = sorted({*queries, *gallery})
    d = {(i, j): math.dist(x[i], x[j]) for i in among for j in among}
    order = {i: sorted((j for j in among if j != i), key=lambda j: (d[i, j], j)) for i in among}

    def reciprocal(i, k):
        return {i} | {j for j in order[i][:k] if i in order[j][:k]}

    shares = {}
    for i in among:
        own = reciprocal(i, k1)
        expanded = set(own)
        for c in own:
            theirs = reciprocal(c, round(k1 / 2))
            if len(own & theirs) >= 2 / 3 * len(theirs):
                expanded |= theirs
        total = sum(math.exp(-d[i, c]) for c in expanded)
        shares[i] = {c: math.exp(-d[i, c]) / total for c in expanded}
    averaged = {}
    for i in among:
        near = [i, *order[i][: k2 - 1]]
        averaged[i] = {c: sum(shares[j].get(c, 0) for j in near) / len(near) for c in among}
    found = []
    for q in queries:
        ranked = []
        for g in gallery:
            if groups[g] == groups[q]:
                continue
            both = [(averaged[q][c], averaged[g][c]) for c in among]
            jaccard = 1 - sum(map(min, both)) / sum(map(max, both))
            ranked.append(((1 - weight) * jaccard + weight * d[q, g], g))
        found.append([g for _, g in sorted(ranked)[:k]])
    return found


def found(x, k, queries, gallery, groups, **options):
    parts = reranked(**options)(x, k, queries, gallery, groups)
    return [[i for i in row.tolist() if i != NONE] for _, near in parts for row in near]


@pytest.mark.parametrize(("k1", "k2"), [(5, 1), (8, 3), (7, 6), (100, 4)])
@pytest.mark.parametrize("weight", [0.05, 0.3, 1.0])
def test_agrees_with_loops(k1, k2, weight):
    rng = np.random.default_rng(k1)
    x = rng.normal(size=(6, 3))[np.arange(45) % 6] + 0.7 * rng.normal(size=(45, 3))
    queries, gallery = rng.permutation(45)[:12], np.sort(rng.permutation(45)[:30])
    groups = rng.integers(0, 20, 45)
    options = {"k1": k1, "k2": k2, "weight": weight}
    for k in (3, 30):
        want = by_loops(x.tolist(), k, queries.tolist(), gallery.tolist(), groups.tolist(), **options)
        got = found(x, k, queries, gallery, groups, **options)
        assert got == want


def test_every_image_against_all_others():
    x = np.random.default_rng(1).normal(size=(30, 2))
    every = list(range(30))
    want = by_loops(x.tolist(), 9, every, every, every, 6, 2, 0.3)
    assert found(x, 9, None, None, None, k1=6, k2=2) == want


def test_the_weight_of_distance_alone_changes_nothing():
    x = np.random.default_rng(2).normal(size=(40, 3))
    labels = np.arange(40) % 4
    assert metrics.retrieval(x, labels, search=reranked(weight=1.0)) == metrics.retrieval(x, labels)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images(count):
    x = np.arange(3.0)[:count, None]
    assert all(len(row) == count - 1 for row in found(x, 5, None, None, None))


def test_bad_numbers_are_named():
    for options in ({"k1": 0}, {"k2": 1.5}, {"weight": -0.1}, {"weight": float("nan")}):
        with pytest.raises(ValueError, match=rf"^{next(iter(options))} must be"):
            reranked(**options)
