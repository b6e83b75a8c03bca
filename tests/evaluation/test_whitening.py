"""PCA with whitening, against its definition in NumPy."""

import numpy as np
import pytest

from jaxml.evaluation.metrics import retrieval
from jaxml.evaluation.whitening import whiten


def data(seed=0, train=200, test=30, width=12):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width)) * np.geomspace(3, 0.01, width)[:, None]
    return [(rng.normal(size=(n, width)) @ mixing + 5).astype(np.float32) for n in (train, test)]


@pytest.mark.parametrize("size", [1, 5, 12])
def test_agrees_with_the_eigenvectors_of_the_covariance(size):
    train, test = data()
    found = whiten(test, train, size)
    x = train.astype(np.float64)
    variances, axes = np.linalg.eigh(np.cov(x.T))
    main = np.argsort(variances)[::-1][:size]
    want = (test.astype(np.float64) - x.mean(0)) @ axes[:, main] / np.sqrt(variances[main])
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    assert found.shape == (30, size)
    assert found.dtype == np.float32
    # Axes have no sign.
    np.testing.assert_allclose(np.abs(found), np.abs(want), atol=1e-4)
    np.testing.assert_allclose(found @ found.T, want @ want.T, atol=1e-4)
    np.testing.assert_array_equal(found, whiten(test, train, size))


def test_dimensions_that_say_nothing_are_left_out():
    """A direction of great variance drowns what tells classes apart; equal variances bring it back."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 6)
    centres = np.concatenate([rng.normal(size=(20, 6)), np.zeros((20, 6))], axis=1)
    noise = np.array([50.0] + [0.1] * 5 + [0.05] * 6)
    train, test = (centres[labels] + noise * rng.normal(size=(120, 12)) for _ in range(2))
    plain, whitened = (retrieval(z, labels)["recall@1"] for z in (test, whiten(test, train, 6)))
    assert whitened > plain + 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, t: (x, t, 13), "size must be a whole number of at least 1 and at most 12, got 13"),
        (lambda x, t: (x, t[:4], 5), "size must be a whole number of at least 1 and at most 4, got 5"),
        (lambda x, t: (x, t, 0), "size must be a whole number"),
        (lambda x, t: (x, t[:, 1:], 5), r"learned_from must be as wide as embeddings \(12\), got 11"),
        (lambda x, t: (x[0], t, 5), "embeddings must be a non-empty array"),
        (lambda x, t: (x, t * np.nan, 5), "learned_from must be finite, got NaN or infinity"),
    ],
)
def test_bad_arguments_are_named(change, message):
    train, test = data()
    with pytest.raises(ValueError, match=f"^{message}"):
        whiten(*change(test, train))


def test_collapsed_embeddings_stay_finite():
    collapsed = np.ones((10, 4))
    assert np.array_equal(whiten(collapsed, collapsed, 2), np.zeros((10, 2)))
