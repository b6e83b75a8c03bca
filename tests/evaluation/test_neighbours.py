"""Nearest neighbours against loops, and their order where distances are equal or nearly equal."""

import sys

import jax
import numpy as np
import pytest

from jaxml.evaluation import neighbours as module
from jaxml.evaluation import products
from jaxml.evaluation.neighbours import NONE, neighbours


def by_loops(x, k, queries=None, gallery=None, groups=None):
    """Differences in float64, added up one by one; equal distances by index."""
    x = np.asarray(x, np.float64).tolist()
    groups = range(len(x)) if groups is None else groups
    found = []
    for q in range(len(x)) if queries is None else queries:
        far = [sum((u - v) ** 2 for u, v in zip(x[q], other, strict=True)) for other in x]
        others = [i for i in (range(len(x)) if gallery is None else gallery) if groups[i] != groups[q]]
        found.append(sorted(others, key=lambda i: (far[i], i))[:k])
    return found


def found(x, k, *places):
    lines = np.concatenate([near for _, near in neighbours(x, k, *places)]).tolist()
    return [[i for i in line if i != NONE] for line in lines]


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


@pytest.fixture(params=["jax", pytest.param("faiss", marks=pytest.mark.peers)])
def on_devices(request, monkeypatch):
    """Searches of any size take their products on the devices, in small blocks; the queries that these leave open."""
    engine = None if request.param == "jax" else pytest.importorskip("faiss")
    monkeypatch.setattr(products, "_faiss", lambda: engine)
    monkeypatch.setattr(products, "QUERIES", 37)
    monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(module, "SLACK", 4)
    monkeypatch.setattr(products, "CHUNK", 8)
    monkeypatch.setattr(products, "BLOCK_BYTES", 4 * 200 * 37)
    left = []
    by_host = module._Search.by_host

    def counting(search, rows, k):
        left.append(len(rows))
        return by_host(search, rows, k)

    monkeypatch.setattr(module._Search, "by_host", counting)
    return left


@pytest.mark.parametrize("kind", KINDS)
def test_devices_find_what_the_host_finds(kind, on_devices):
    x = embeddings(kind, 200, np.random.default_rng(4))
    for k in (1, 7, 40):
        assert found(x, k) == by_loops(x, k), k
    # Products in float32 tell embeddings apart where their differences are not small beside their spread.
    assert (sum(on_devices) == 0) == (kind in ("generic", "far from the origin"))


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_no_number_is_too_large_or_too_small_for_devices(scale, on_devices):
    x = np.random.default_rng(2).normal(size=(100, 4))
    x[:50] *= 1e-12
    assert found(scale * x, 5) == by_loops(x, 5)
    assert sum(on_devices) >= 50


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_the_number_of_devices_changes_nothing(devices, on_devices, monkeypatch):
    x = np.random.default_rng(5).normal(size=(203, 16))
    wanted = by_loops(x, 9)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:devices])
    assert found(x, 9) == wanted
    assert sum(on_devices) == 0


def test_faiss_is_for_cpus(monkeypatch):
    products._faiss.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", sys)
    assert products._faiss() is sys
    products._faiss.cache_clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert products._faiss() is None
    products._faiss.cache_clear()


@pytest.mark.parametrize("large", [0, 2**26])
def test_queries_gallery_and_groups(large, monkeypatch):
    monkeypatch.setattr(module, "LARGE", large)
    monkeypatch.setattr(module, "SLACK", 2)
    rng = np.random.default_rng(6)
    x = rng.normal(size=(120, 5))
    queries, gallery = rng.permutation(120)[:30], rng.permutation(120)[:90]
    groups = rng.integers(0, 25, 120)
    for k in (1, 6, 90):
        assert found(x, k, queries, gallery) == by_loops(x, k, queries, gallery)
        assert found(x, k, queries, gallery, groups) == by_loops(x, k, queries, gallery, groups)
        assert found(x, k, None, None, groups) == by_loops(x, k, None, None, groups)
    assert found(x, 3, queries, gallery[:0]) == [[]] * 30


def test_places_that_are_not_there():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"queries must be an integer array \[n\] of places from 0 to 2"):
        next(neighbours(x, 1, [3]))
    with pytest.raises(ValueError, match="gallery must be"):
        next(neighbours(x, 1, None, [-1]))
    with pytest.raises(ValueError, match="groups must be"):
        next(neighbours(x, 1, None, None, [0, 1]))
