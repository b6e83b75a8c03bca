"""The verb that scores a finished run: PCA with whitening beside the run's embeddings and the frozen features."""

import re

import numpy as np
import pytest

from jaxml import config as configs
from jaxml import metrics
from jaxml.commands import evaluate as command
from jaxml.evaluate import evaluate, reranked, whiten
from jaxml.evaluation.neighbours import neighbours
from jaxml.training import results, run
from tests.training.test_run import config, pictures, untrained  # noqa: F401


def main(*words):
    command.main([str(word) for word in words])


def table(text):
    """Scores of the rows that are printed last, by name."""
    rows = re.findall(r"^(\w.*?) {2,}(\d\.\d{4}) +(\d\.\d{4}) +(\d\.\d{4})$", text, re.M)
    return {name: [float(value) for value in values] for name, *values in rows}


def test_pca_is_fitted_to_the_training_classes(config, tmp_path, capsys, monkeypatch):  # noqa: F811
    changes = {"model.weights": "weights.safetensors", "eval.feature_size": 2}
    config = configs.override(config, changes)
    untrained(config, tmp_path / "run", [3])
    opened = run.load(tmp_path / "run", feature_size=8)
    test, train = (opened.images.rows(part) for part in ("test", "train"))
    every = np.arange(len(opened.images.index.labels))
    pixels = results.pixels_as_features(next(opened.images.read([every])))
    monkeypatch.setattr(results, "frozen_features", lambda run, rows: pixels[rows])
    main("--workdir", tmp_path / "run", "--whiten", 4)
    text = capsys.readouterr().out
    assert "24 images of 3 test classes, by 2 of 8 dimensions:" in text
    embeddings = opened.embed(test), opened.embed(train)
    assert embeddings[0].shape == (24, 8)
    wanted = {
        "embedding (8)": embeddings[0],
        "embedding, PCA to 4": whiten(*embeddings, 4),
        "frozen features (192)": pixels[test],
        "frozen features, PCA to 4": whiten(pixels[test], pixels[train], 4),
    }
    found = table(text)
    assert found.keys() == wanted.keys()
    for name, features in wanted.items():
        scores = evaluate(features, opened.images.index.labels[test], kmeans_seeds=2)
        np.testing.assert_allclose(found[name], [scores[k] for k in ("nmi", "f1", "recall@1")], atol=1e-4)

    main("--workdir", tmp_path / "run", "--whiten", 8)
    assert table(capsys.readouterr().out).keys() == {"frozen features (192)", "frozen features, PCA to 8"}
    with pytest.raises(
        ValueError, match=r"^--whiten is 192; it must be less than the dimensions of embedding and of"
    ):
        main("--workdir", tmp_path / "run", "--whiten", 192)


def test_neighbours_are_ranked_again(config, tmp_path, capsys):  # noqa: F811
    untrained(config, tmp_path / "run", [3])
    main("--workdir", tmp_path / "run", "--rerank", "--ks", 1, 3)
    first, again = capsys.readouterr().out.split("with k-reciprocal re-ranking:\n")
    opened = run.load(tmp_path / "run")
    rows = opened.images.rows("test")
    x, labels = opened.embed(rows), opened.images.index.labels[rows]
    for text, search in ((first, neighbours), (again, reranked())):
        scores = metrics.retrieval(x, labels, metrics.at([1, 3]), search=search)
        for name in ("recall@1", "precision@3", "map@r"):
            assert float(re.search(rf"{name} +(\S+)", text)[1]) == pytest.approx(scores[name], abs=1e-4)
    assert "nmi" in first
    assert "nmi" not in again


def test_ranked_by_category_as_well(config, tmp_path, capsys):  # noqa: F811
    untrained(config, tmp_path / "run", [3])
    opened = run.load(tmp_path / "run")
    rows = opened.images.rows("test")
    x, labels = opened.embed(rows), opened.images.index.labels[rows]
    names = [opened.images.index.class_names[label] for label in np.unique(labels)]
    expression = f"({names[0]}|).*"
    main("--workdir", tmp_path / "run", "--category", expression, "--ks", 1, 3)
    text = capsys.readouterr().out.split(
        "by category, and by class and category as levels (h_ap, ndcg, asi):\n"
    )[1]
    categories = (labels == labels.min()).astype(int)
    scores = metrics.retrieval(x, categories, metrics.at([1, 3]))
    scores |= metrics.hierarchical(x, [labels, categories])
    for name in ("recall@1", "precision@3", "map@r", "h_ap", "ndcg", "asi"):
        assert float(re.search(rf"{name} +(\S+)", text)[1]) == pytest.approx(scores[name], abs=1e-4)
    with pytest.raises(
        ValueError, match=r"^--category is 'class'; it must be source, or a regular expression with"
    ):
        main("--workdir", tmp_path / "run", "--category", "class")
