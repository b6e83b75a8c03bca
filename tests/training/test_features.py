"""The head along the principal axes of features, and when it is left alone."""
# ruff: noqa: F811 (fixtures)

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxml import config as configs
from jaxml.training import run, train
from tests.training.test_run import Stop, StopAt, assert_same_run, config, pictures, rows, untrained  # noqa: F401
from tests.training.test_weights import Begins, with_model


@pytest.fixture
def along_axes(config):
    return with_model(config, head_init="pca", feature_size=5)


def axes_by_eigenvectors(features, count):
    """Mean, eigenvectors of the covariance matrix with the greatest eigenvalues, and these."""
    mean = features.mean(0)
    values, vectors = np.linalg.eigh(np.cov(features.astype(np.float64), rowvar=False))
    order = np.argsort(-values)[:count]
    return mean, vectors[:, order].T, values[order]


def test_the_head_lies_along_the_principal_axes_of_the_features(along_axes, tmp_path, capsys):
    changes = {
        "model.head": "none",
        "model.head_init": "random",
        "model.normalize": False,
        "eval.mirror": False,
    }
    config = replace(along_axes, train=replace(along_axes.train, ema=0.5))
    train.learn(config, tmp_path / "run", callbacks=[begins := Begins()])
    opened = run.load(tmp_path / "run")
    rows = opened.images.rows(config.data.train_on)
    assert (
        f"head: along the principal axes of the features of {len(rows)} images\n" in capsys.readouterr().out
    )
    bare = configs.override(config, {**changes, "model.feature_size": 512, "train.ema": 0.0})
    network = replace(opened.learner, config=bare, module=train.learner.create(bare, 1)[0].module)
    params = {"backbone": begins.state.params["backbone"]}
    features = replace(opened, learner=network).embed(
        rows, begins.state._replace(params=params, averages=None)
    )
    mean, axes, variances = axes_by_eigenvectors(features, 5)
    head = begins.state.params["head"]
    outputs = features @ head["kernel"] + head["bias"]
    projected = (features - mean) @ axes.T / variances**0.25
    scale = np.abs(outputs).sum(0) / np.abs(projected).sum(0)
    np.testing.assert_allclose(scale, scale[0], rtol=1e-3)
    np.testing.assert_allclose(
        np.abs(outputs), scale[0] * np.abs(projected), atol=2e-3 * np.abs(outputs).max()
    )
    assert np.linalg.norm(head["kernel"], axis=0).mean() == pytest.approx(1, rel=1e-5)
    assert jax.tree.all(jax.tree.map(np.array_equal, begins.state.averages["params"]["head"], head))


def test_a_head_that_weights_bring_stays(along_axes, tmp_path):
    train.learn(along_axes, tmp_path / "first")
    first = run.load(tmp_path / "first").state.params["head"]
    second = with_model(along_axes, weights=str(tmp_path / "first"))
    train.learn(second, tmp_path / "second", callbacks=[begins := Begins()])
    assert jax.tree.all(jax.tree.map(np.array_equal, begins.state.params["head"], first))
    wider = with_model(second, feature_size=6)
    train.learn(wider, tmp_path / "wider", callbacks=[begins := Begins()])
    assert np.linalg.norm(begins.state.params["head"]["kernel"], axis=0).mean() == pytest.approx(1, rel=1e-5)


def test_a_run_that_was_stopped_keeps_its_head(along_axes, tmp_path):
    with pytest.raises(Stop):
        train.train(along_axes, tmp_path / "stopped", callbacks=[StopAt(3)])
    train.train(along_axes, tmp_path / "stopped", resume=True)
    train.train(along_axes, tmp_path / "whole")
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_what_has_no_principal_axes(along_axes, tmp_path):
    with pytest.raises(ValueError, match=r"--model\.head_init pca needs --model\.head linear; it is none"):
        train.learn(with_model(along_axes, head="none", feature_size=512), tmp_path / "none")
    with pytest.raises(ValueError, match=r"--model\.feature_size is 300; .* at most"):
        train.learn(with_model(along_axes, feature_size=300), tmp_path / "wide")
    assert not (tmp_path / "wide").exists()
