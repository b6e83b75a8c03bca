"""Class weights and regularisers by configuration: what they add to a step, on any number of devices."""
# ruff: noqa: F811 (fixtures)

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import config as configs
from jaxml import losses
from jaxml.config import Loss
from jaxml.data.sampling import class_table, sample
from jaxml.training import class_weights, run, train
from jaxml.training.devices import AXIS
from jaxml.training.learner import create, regularizer_function
from jaxml.training.step import embed_step, features
from tests.training import test_step
from tests.training.test_memory import PLAIN
from tests.training.test_run import config, pictures  # noqa: F401
from tests.training.test_step import IMAGES, LABELS, difference, moments, run_steps

NAMES = [f"class{c}" for c in range(10)]
RULES = (("class[12]", 3.0), ("class1", 9.0), (".*5", 0.0))


def first_batch(config):
    """Outputs before normalisation, embeddings and labels of the first step, and the initial state."""
    learner, state = create(config, 10)
    indices, labels = sample(0, 0, class_table(LABELS, np.arange(10)), 4, 4)
    images = jnp.asarray(IMAGES)[indices]
    network = state.params, state.batch_stats, images
    outputs = jax.jit(lambda *args: features(learner, *args, keys=None)[0])(*network)
    return outputs, jax.jit(partial(embed_step, learner))(*network), labels, state


def on_one_device(function, *arrays):
    """What a function gives that names the axis of the devices."""
    call = jax.pmap(function, axis_name=AXIS, devices=jax.devices()[:1])
    return call(*(a[None] for a in arrays))[0]


def test_the_first_expression_that_matches_counts():
    found = class_weights.of_classes(Loss(class_weights=RULES), NAMES)
    np.testing.assert_array_equal(found, [1, 3, 3, 1, 1, 0, 1, 1, 1, 1])
    assert class_weights.of_classes(Loss(), NAMES) is None
    with pytest.raises(
        ValueError, match=r"^--loss\.class_weights: 'klass' matches no class to train on; .* class0, cl"
    ):
        class_weights.of_classes(Loss(class_weights=(("klass", 2.0),)), NAMES)


def test_a_run_weighs_its_classes_by_their_names(config, tmp_path):
    weighed = configs.override(config, {"loss.class_weights": (("class[3-9]", 5.0),), "train.steps": 1})
    opened = run.open_run(weighed, tmp_path / "run", to_train=True)
    x = jax.random.normal(jax.random.key(0), (8, 8))
    y = jnp.repeat(jnp.arange(4), 2)
    found = on_one_device(lambda x, y: opened.learner.loss(x, y, key=jax.random.key(0), memory=None)[0], x, y)
    want, _ = losses.weighted(losses.triplet, [1.0, 1.0, 1.0, 5.0, 5.0])(x, y)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    wrong = configs.override(config, {"loss.class_weights": (("nothing", 5.0),)})
    with pytest.raises(ValueError, match=r"^--loss\.class_weights: 'nothing' matches no class to train on"):
        train.train(wrong, tmp_path / "wrong")


@pytest.mark.parametrize(
    "devices", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_weights_in_a_step(monkeypatch, devices):
    """By classes 0 to 9, whose weights are given where runs take them from names."""
    weights = np.linspace(0.2, 2.0, 10, dtype=np.float32)
    settings = replace(PLAIN, loss=Loss("contrastive", class_weights=RULES))
    made = test_step.create
    monkeypatch.setattr(test_step, "create", lambda *args: made(*args, class_weights=weights))
    found = run_steps(settings, devices, 1)
    _, x, y, _ = first_batch(settings)
    want, _ = losses.weighted(losses.contrastive, weights)(x, y)
    np.testing.assert_allclose(found.metrics["loss"][0], want, rtol=1e-4)
    if devices > 1:
        assert difference(moments(run_steps(settings, 1, 1).last), moments(found.last)) < 1e-4


def spread(proxies):
    """The centre invariance of proxies [C, D], in float64."""
    square = np.sum(np.square(np.asarray(proxies, np.float64)), axis=1)
    return np.mean((square - square.mean()) ** 2) / 4


@pytest.mark.parametrize("devices", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 4])
def test_regularizers_in_a_step(monkeypatch, devices):
    regularizers = (("zero_mean", 0.3), ("centre_invariance", 7.0))
    settings = replace(PLAIN, loss=Loss("proxy_anchor", regularizers=regularizers))
    outputs, x, y, state = first_batch(settings)
    proxies = np.asarray(state.params["loss"] * jnp.linspace(1.0, 2.0, 10)[:, None])
    made = test_step.create

    def with_lengths(*args):
        learner, state = made(*args)
        return learner, state._replace(params={**state.params, "loss": proxies})

    monkeypatch.setattr(test_step, "create", with_lengths)
    base, _ = losses.proxy_anchor(x, y, proxies)
    balance = np.abs(np.asarray(outputs, np.float64).sum(axis=1)).mean()
    found = run_steps(settings, devices, 1)
    np.testing.assert_allclose(
        found.metrics["loss"][0], float(base) + 0.3 * balance + 7.0 * spread(proxies), rtol=1e-4
    )
    assert min(0.3 * balance, 7.0 * spread(proxies)) > 1e-2
    if devices > 1:
        assert difference(moments(run_steps(settings, 1, 1).last), moments(found.last)) < 1e-4


def test_regularizers_with_nested_sizes():
    settings = replace(
        PLAIN, loss=Loss("proxy_anchor", nested_sizes=(4,), regularizers=(("centre_invariance", 7.0),))
    )
    outputs, _, y, state = first_batch(settings)
    params = tuple(
        p * jnp.linspace(1.0, 2.0, 10)[:, None] ** i for i, p in enumerate(state.params["loss"], 1)
    )
    assert [p.shape for p in params] == [(10, 4), (10, 8)]
    found = on_one_device(lambda x, y: regularizer_function(settings)(x, y, params)[0], outputs, y)
    np.testing.assert_allclose(found, 7.0 * np.mean([spread(p) for p in params]), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "triplet",
            (("nonsense", 1.0),),
            r"has 'nonsense'; it takes zero_mean, centre_invariance, each once$",
        ),
        ("triplet", (("embedding_norm", 1.0),), r"has 'embedding_norm'; it takes zero_mean, centre_inv"),
        (
            "triplet",
            (("zero_mean", 1.0), ("zero_mean", 2.0)),
            r"has 'zero_mean', 'zero_mean'; it takes .* each once$",
        ),
        (
            "triplet",
            (("centre_invariance", 1.0),),
            r"centre_invariance needs a loss with proxies, .*; triplet has none$",
        ),
        (
            "margin",
            (("centre_invariance", 1.0),),
            r"centre_invariance needs a loss with proxies, .*; margin has none$",
        ),
    ],
)
def test_regularizers_that_there_cannot_be(name, given, message):
    with pytest.raises(ValueError, match=rf"^--loss\.regularizers {message}"):
        create(replace(PLAIN, loss=Loss(name, regularizers=given)), 10)
