"""Evaluation by K-means: it sees no labels, repeats exactly, and seeds by label only where asked to."""

import inspect

import numpy as np
import pytest

from jaxml.evaluation import clustering as evaluate
from jaxml.evaluation import metrics


def blobs(noise, classes=6, per_class=12, d=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes) + 100, per_class)
    centres = rng.normal(size=(classes, d))
    return (np.repeat(centres, per_class, axis=0) + noise * rng.normal(size=(len(labels), d))), labels


def test_separable_classes_score_one():
    got = evaluate.evaluate(*blobs(0.01))
    for name in (*metrics.CLUSTERING, *metrics.ORIGINAL, "recall@1", "r_precision", "map@r"):
        assert got[name] == pytest.approx(1), name
        assert got.get(f"{name}_std", 0) == pytest.approx(0), name
    assert got["queries"] == 72


def test_mean_and_deviation_over_seeds():
    embeddings, labels = blobs(1.0, classes=20)
    got = evaluate.evaluate(embeddings, labels, kmeans_seeds=3, seed=5, clusters_per_class=2)
    runs = [evaluate.cluster(embeddings, 40, seed=s) for s in (5, 6, 7)]
    for name, metric in metrics.CLUSTERING.items():
        values = [metric(run, labels) for run in runs]
        assert got[name] == pytest.approx(sum(values) / 3, abs=1e-9)
        assert got[f"{name}_std"] == pytest.approx(np.std(values) * np.sqrt(3 / 2), abs=1e-9)
        assert got[f"{name}_std"] > 0
    assert got == evaluate.evaluate(embeddings, labels, kmeans_seeds=3, seed=5, clusters_per_class=2)
    assert all(isinstance(value, float) for value in got.values())
    assert not any(name.endswith("_std") for name in evaluate.evaluate(embeddings, labels, kmeans_seeds=1))


def test_clustering_sees_no_labels():
    """The clusters depend on labels through their number only."""
    embeddings, labels = blobs(1.0)
    assert "labels" not in inspect.signature(evaluate.cluster).parameters
    shuffled = np.random.default_rng(0).permutation(labels)
    chance = evaluate.evaluate(embeddings, shuffled, kmeans_seeds=2)
    assert abs(chance["ami"]) < 0.1
    assert chance["nmi"] == pytest.approx(
        np.mean([metrics.nmi(evaluate.cluster(embeddings, 6, seed=s), shuffled) for s in (0, 1)])
    )


def test_label_seeding_starts_from_one_image_of_each_class():
    embeddings, labels = blobs(0.01, classes=5)
    one, other = evaluate.label_seeded_clusters(embeddings, labels, [1, 2])
    assert metrics.nmi(one, labels) == metrics.nmi(other, labels) == pytest.approx(1)
    (thrice,) = evaluate.label_seeded_clusters(embeddings, labels, [1], clusters_per_class=3)
    assert len(np.unique(thrice)) == 15
    assert metrics.original_f1(thrice, labels) == pytest.approx(1)
    assert metrics.nmi(thrice, labels) < 0.9
    (few,) = evaluate.label_seeded_clusters(embeddings[:13], labels[:13], [0], clusters_per_class=3)
    assert len(np.unique(few)) == 4  # three of the first class and the only image of the second


def test_label_seeding_draws_other_images_for_each_seed():
    one, other = evaluate.label_seeded_clusters(*blobs(1.0), [1, 2])
    assert 0 < metrics.ari(one, other) < 0.99


def test_label_seeding_uses_labels():
    """Two classes in a tight blob, one in a wide: by label the tight one is cut, by spread the wide one."""
    rng = np.random.default_rng(0)
    embeddings = np.concatenate([rng.normal(size=(20, 3)), 10 + 0.1 * rng.normal(size=(20, 3))])
    labels = np.repeat([0, 1, 2], [20, 10, 10])
    (seeded,) = evaluate.label_seeded_clusters(embeddings, labels, [0])
    free = evaluate.cluster(embeddings, 3)
    assert [len(np.unique(seeded[:20])), len(np.unique(seeded[20:]))] == [1, 2]
    assert [len(np.unique(free[:20])), len(np.unique(free[20:]))] == [2, 1]


def test_validate_is_one_label_free_run():
    embeddings, labels = blobs(0.5)
    got = evaluate.validate(embeddings, labels, seed=2)
    assert got["nmi"] == pytest.approx(metrics.nmi(evaluate.cluster(embeddings, 6, seed=2, n_init=3), labels))
    assert not any(name.startswith("original") or name.endswith("_std") for name in got)
    assert got["recall@1"] == metrics.recall_at_k(embeddings, labels)[1]


def test_collapsed_embeddings_score_nothing_and_do_not_warn():
    _, labels = blobs(1.0)
    got = evaluate.evaluate(np.ones((len(labels), 4)), labels, kmeans_seeds=2)
    assert got["nmi"] == got["ami"] == got["ari"] == 0
    assert got["recall@1"] < 0.5


def test_one_image_per_class():
    got = evaluate.evaluate(np.arange(8.0).reshape(4, 2), np.arange(4), kmeans_seeds=1)
    assert got["nmi"] == 1
    assert np.isnan(got["recall@1"])
    assert got["queries"] == 0


def test_bad_input():
    embeddings, labels = blobs(1.0)
    with pytest.raises(ValueError, match="num_clusters is 73"):
        evaluate.cluster(embeddings, 73)
    with pytest.raises(ValueError, match="clusters of 72 images"):
        evaluate.evaluate(embeddings, labels, clusters_per_class=20)
    with pytest.raises(ValueError, match="NaN"):
        evaluate.evaluate(np.where(labels[:, None] == 100, np.nan, embeddings), labels)
    with pytest.raises(ValueError, match="kmeans_seeds"):
        evaluate.evaluate(embeddings, labels, kmeans_seeds=0)
    with pytest.raises(ValueError, match="shape"):
        evaluate.cluster(np.ones(5), 2)
