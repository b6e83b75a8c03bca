"""The plane of maps: classes stay together, and it is the same every time."""

import numpy as np

from jaxml.evaluation import metrics
from jaxml.reports import figures


def embeddings(classes, each):
    """Embeddings [N, 6] in random order with their labels [N]."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    return rng.normal(size=(classes, 6))[labels] + 0.1 * rng.normal(size=(len(labels), 6)), labels


def test_plane_keeps_classes_together():
    x, labels = embeddings(5, 30)
    for n in (150, 20):  # t-SNE, PCA
        xy = figures.plane(x[:n])
        assert xy.shape == (n, 2)
        assert metrics.recall_at_k(xy, labels[:n], [1])[1] > 0.8


def test_plane_puts_points_beyond_the_landmarks_near_their_own_class(monkeypatch):
    x, labels = embeddings(5, 60)
    monkeypatch.setattr(figures, "LANDMARKS", 100)
    xy = figures.plane(x)
    np.testing.assert_array_equal(xy, figures.plane(x))
    near = np.linalg.norm(xy[100:, None] - xy[None, :100], axis=-1).argmin(1)
    assert (labels[near] == labels[100:]).mean() > 0.95


def test_a_point_on_a_landmark_stands_where_it_does(monkeypatch):
    x, _ = embeddings(5, 60)
    monkeypatch.setattr(figures, "LANDMARKS", 100)
    xy = figures.plane(np.concatenate([x[:100], x[:30]]))
    np.testing.assert_allclose(xy[100:], xy[:30], atol=1e-3)
