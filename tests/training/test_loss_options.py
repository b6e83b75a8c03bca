"""Class weights and regularisers by configuration: what they add to a step, on any number of devices."""
# ruff: noqa: F811 (fixtures)

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import config as configs
from jaxml import losses
from jaxml.config import Loss
from jaxml.data.sampling import class_table, sample
from jaxml.training import class_weights, run, train
from jaxml.training.learner import create
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
    outputs, _ = features(learner, state.params, state.batch_stats, images, keys=None)
    return outputs, embed_step(learner, state.params, state.batch_stats, images), labels, state


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
    # Four of the classes 0 to 4 that are trained on.
    with jax.set_mesh(jax.make_mesh((1,), ("batch",))):
        found = jax.shard_map(
            lambda x, y: opened.learner.loss(x, y, key=jax.random.key(0), memory=None)[0],
            in_specs=(jax.P(), jax.P()),
            out_specs=jax.P(),
        )(x, y)
    want, _ = losses.weighted(losses.triplet, [1.0, 1.0, 1.0, 5.0, 5.0])(x, y)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    wrong = configs.override(config, {"loss.class_weights": (("nothing", 5.0),)})
    with pytest.raises(ValueError, match=r"^--loss\.class_weights: 'nothing' matches no class to train on"):
        train.train(wrong, tmp_path / "wrong")


@pytest.mark.parametrize("devices", [1, 2, 4])
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


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_regularizers_in_a_step(devices):
    plain = replace(PLAIN, loss=Loss("proxy_anchor"))
    settings = replace(
        PLAIN, loss=Loss("proxy_anchor", regularizers=(("zero_mean", 0.3), ("centre_invariance", 7.0)))
    )
    outputs, x, y, state = first_batch(settings)
    base, _ = losses.proxy_anchor(x, y, state.params["loss"])
    square = np.sum(np.square(np.asarray(state.params["loss"], np.float64)), axis=1)
    want = float(base) + 0.3 * np.abs(np.asarray(outputs, np.float64).sum(axis=1)).mean()
    want += 7.0 * np.mean((square - square.mean()) ** 2) / 4
    found = run_steps(settings, devices, 1)
    np.testing.assert_allclose(found.metrics["loss"][0], want, rtol=1e-4)
    one = found if devices == 1 else run_steps(settings, 1, 1)
    assert difference(moments(one.last), moments(found.last)) < 1e-4
    assert difference(moments(run_steps(plain, devices, 1).last), moments(found.last)) > 1e-3


def test_regularizers_with_nested_sizes():
    settings = replace(
        PLAIN, loss=Loss("proxy_anchor", nested_sizes=(4,), regularizers=(("centre_invariance", 7.0),))
    )
    _, state = create(settings, 10)
    assert [p.shape for p in state.params["loss"]] == [(10, 4), (10, 8)]
    with_terms, without = (
        run_steps(replace(PLAIN, loss=replace(settings.loss, regularizers=r)), 1, 3).metrics["loss"]
        for r in (settings.loss.regularizers, ())
    )
    assert with_terms[2] > without[2], "proxies that have moved have lengths that differ"


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
