"""K-means of many clusters: against scikit-learn from the same centres, and the same on any number of devices."""

import jax
import numpy as np
import pytest
from sklearn.cluster import KMeans, kmeans_plusplus

from jaxml.evaluation import clustering
from jaxml.evaluation import kmeans as module
from jaxml.evaluation.kmeans import kmeans, spread
from jaxml.evaluation.metrics import nmi


def blobs(count=3000, classes=120, width=8, noise=0.35, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    x = rng.normal(size=(classes, width))[labels] + noise * rng.normal(size=(count, width))
    return x.astype(np.float32), labels


def by_scikit_learn(x, centres, iterations):
    return KMeans(len(centres), init=centres, n_init=1, max_iter=iterations, algorithm="lloyd").fit(x)


@pytest.mark.parametrize("iterations", [1, 2, 25])
def test_the_same_centres_give_the_clusters_of_scikit_learn(iterations):
    x, _ = blobs()
    centres = x[np.random.default_rng(1).permutation(len(x))[:120]]
    clusters, inertia = kmeans(x, centres, iterations=iterations)
    other = by_scikit_learn(x, centres, iterations)
    assert clusters.dtype == np.int32
    assert inertia == pytest.approx(other.inertia_, rel=1e-4)
    assert np.mean(clusters == other.labels_) > 0.999


def test_a_cluster_that_loses_all_its_points_takes_the_farthest():
    x = np.array([[0.0], [1.0], [2.0], [30.0]], np.float32)
    centres = np.array([[0.5], [900.0]], np.float32)
    clusters, inertia = kmeans(x, centres, iterations=25)
    assert clusters.tolist() == [0, 0, 0, 1]
    assert inertia == pytest.approx(2)


def test_fewer_different_points_than_clusters():
    x = np.repeat(np.array([[0.0], [1.0]], np.float32), 5, axis=0)
    clusters, inertia = kmeans(x, np.zeros((4, 1), np.float32), iterations=25)
    assert inertia == 0
    assert len({*clusters[:5].tolist()} & {*clusters[5:].tolist()}) == 0
    assert spread(x, 4, seed=0).shape == (4, 1)


@pytest.mark.parametrize("rounds", [512, 20])
def test_centres_are_spread_as_well_as_by_scikit_learn(rounds, monkeypatch):
    """The inertia of k-means++ alone, mean of ten seeds."""
    monkeypatch.setattr(module, "ROUNDS", rounds)
    x, _ = blobs()

    def inertia(centres):
        return float(np.square(x[:, None] - centres[None]).sum(-1).min(1).sum())

    ours = [inertia(spread(x, 60, seed)) for seed in range(10)]
    theirs = [inertia(kmeans_plusplus(x, 60, random_state=seed)[0]) for seed in range(10)]
    # A centre a round is the same method; three a round do not see each other.
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.02 if rounds == 512 else 0.05)
    at_random = [inertia(x[np.random.default_rng(seed).permutation(len(x))[:60]]) for seed in range(10)]
    assert np.mean(ours) < 0.97 * np.mean(at_random)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_the_number_of_devices_changes_nothing(devices, monkeypatch):
    x, _ = blobs()
    monkeypatch.setattr(module, "BLOCK", 128)
    wanted = kmeans(x, spread(x, 50, seed=3), iterations=25)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:devices])
    clusters, inertia = kmeans(x, spread(x, 50, seed=3), iterations=25)
    np.testing.assert_array_equal(clusters, wanted[0])
    assert inertia == wanted[1]


def test_many_clusters_are_as_good_as_those_of_scikit_learn(monkeypatch):
    """One start of 25 iterations, mean of 30 seeds, whose difference has a standard error of 0.3 %."""
    x, labels = blobs()
    monkeypatch.setattr(clustering, "MANY", 100)
    ours = clustering._kmeans(x, 120, range(30), n_init=10)
    fits = [KMeans(120, n_init=1, max_iter=25, random_state=seed).fit(x) for seed in range(30)]
    assert np.mean([nmi(one, labels) for one in ours]) == pytest.approx(
        np.mean([nmi(fit.labels_, labels) for fit in fits]), abs=0.005
    )

    def inertia(clusters):
        return sum(
            float(np.square(x[clusters == c] - x[clusters == c].mean(0)).sum()) for c in np.unique(clusters)
        )

    ratio = np.mean([inertia(one) for one in ours]) / np.mean([fit.inertia_ for fit in fits])
    assert ratio < 1.01
    (again,) = clustering._kmeans(x, 120, [7], n_init=10)
    np.testing.assert_array_equal(again, ours[7])


def test_the_engine_goes_by_the_number_of_clusters():
    assert clustering.engine(1000, 10) == ("scikit-learn", 10, 300)
    assert clustering.engine(1001, 10) == ("jaxml", 1, 25)
