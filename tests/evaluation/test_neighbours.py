"""Nearest neighbours against loops, and their order where distances are equal or nearly equal."""

import numpy as np
import pytest

from jaxml.evaluation import neighbours as module
from jaxml.evaluation.neighbours import neighbours


def by_loops(x, k, queries=None):
    """Differences in float64, added up one by one; equal distances by index."""
    x = np.asarray(x, np.float64).tolist()
    found = []
    for q in range(len(x)) if queries is None else queries:
        far = [sum((u - v) ** 2 for u, v in zip(x[q], other, strict=True)) for other in x]
        found.append(sorted((i for i in range(len(x)) if i != q), key=lambda i: (far[i], i))[:k])
    return found


def found(x, k, queries=None):
    return np.concatenate([near for _, near in neighbours(x, k, queries)]).tolist()


def embeddings(kind, n, rng):
    """Four columns: NumPy adds so few numbers one by one, as the loops do."""
    if kind == "generic":
        return rng.normal(size=(n, 4))
    if kind == "lattice":
        return rng.integers(0, 3, (n, 4)).astype(np.float64)
    if kind == "duplicates":
        return rng.normal(size=(n // 4, 4)).astype(np.float32)[rng.integers(0, n // 4, n)]
    if kind == "far from the origin":
        return 1e3 + 1e-6 * rng.normal(size=(n, 4))
    if kind == "nearly equal":
        # Two points, and differences that their matrix product cannot hold.
        return rng.integers(0, 2, (n, 1)) + 1e-9 * rng.integers(0, 3, (n, 4))
    if kind == "outlier":
        return np.concatenate([np.array([[1e6, 0, 0, 0]]), embeddings("duplicates", n - 1, rng)])
    if kind == "equal":
        return np.ones((n, 4), np.float32)
    return np.where(rng.random((n, 4)) < 0.5, 0.0, -0.0)  # "zeros"


KINDS = (
    "generic", "lattice", "duplicates", "far from the origin", "nearly equal", "outlier", "equal", "zeros",
)  # fmt: skip


@pytest.mark.parametrize("block_bytes", [1, 8 * 60 * 7, 2**20])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_distances_go_by_index(kind, block_bytes, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(0)
    x = embeddings(kind, 60, rng)
    for k in (1, 5, 58, 59, 100):
        assert found(x, k) == by_loops(x, k), k
    queries = rng.permutation(60)[:13]
    assert found(x, 7, queries) == by_loops(x, 7, queries)


@pytest.mark.parametrize("width", [64, 512])
def test_a_picture_that_is_there_thrice(width):
    """Copies have equal distances from every other picture, which a matrix product does not always give."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, width)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    copies = np.concatenate([x, x, x])
    for k in (2, 4, 31):
        for row, near in enumerate(found(copies, k)):
            places = {}
            for i in near:
                places.setdefault(i % 100, []).append(i)
            assert near[:2] == sorted(i for i in range(row % 100, 300, 100) if i != row)[:2]
            # Every picture's copies come in order, and none is missing but where k cuts the last one off.
            groups = list(places.values())
            for point, group in zip(places, groups, strict=True):
                whole = [i for i in range(point, 300, 100) if i != row]
                assert group == whole[: len(group)]
                assert group == whole or group is groups[-1]


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_no_square_overflows(scale):
    x = np.random.default_rng(2).normal(size=(50, 4))
    with np.errstate(all="raise", under="ignore"):
        assert found(scale * x, 10) == by_loops(x, 10)


def test_one_image_has_no_neighbours():
    assert found(np.ones((1, 3)), 5) == [[]]
    assert found(np.ones((2, 3)), 5) == [[1], [0]]


def test_differences_of_equal_embeddings_are_taken_once(monkeypatch):
    """A network that collapsed gives all pictures one embedding: N^2 differences would take hours."""
    taken, square = [], np.square

    def counting(differences):
        taken.append(len(differences))
        return square(differences)

    monkeypatch.setattr(module.np, "square", counting)
    x = np.array([[0.0, 1.0], [-0.0, 1.0], [2.0, 1.0]])[np.arange(300) % 3]
    assert found(x, 250) == by_loops(x, 250)
    assert sum(taken) <= 4
    taken.clear()
    found(np.random.default_rng(3).normal(size=(300, 8)), 250)
    assert sum(taken) == 0


def test_embeddings_may_lie_in_memory_in_any_order():
    x = np.random.default_rng(0).normal(size=(30, 2))
    wanted = [near for _, near in neighbours(x, 5)]
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1].copy()[::-1]):
        for near, want in zip((near for _, near in neighbours(other, 5)), wanted, strict=True):
            np.testing.assert_array_equal(near, want)
