"""Learning rates by group: one Adam step moves a parameter by the learning rate times its factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import models
from jaxml.config import Optim
from jaxml.config.presets import PRESETS
from jaxml.training import optimizer as optim

PARAMS = {
    "backbone": {
        "conv1": {"kernel": jnp.full((2, 3), 0.5), "bias": jnp.zeros(3)},
        "bn": {"scale": -jnp.zeros(2)},
    },
    "head": {"kernel": jnp.ones((3, 2))},
}
CONFIG = Optim(learning_rate=0.01, groups=(("backbone/bn/.*", 0.0), ("backbone/.*", 0.1)))


def one_step(config, steps=10, at=0):
    optimizer = optim.make(config, steps, PARAMS)
    state = optimizer.init(PARAMS)
    grads = {
        "backbone": {
            "conv1": {"kernel": jnp.full((2, 3), 3.0), "bias": jnp.full(3, -2.0)},
            "bn": {"scale": jnp.ones(2)},
        },
        "head": {"kernel": jnp.full((3, 2), 1e-2)},
    }
    for _ in range(at + 1):
        updates, state = optimizer.update(grads, state, PARAMS)
    return updates


def test_factors_by_first_match():
    updates = one_step(CONFIG)
    # Adam's first step is the sign of the gradient times the learning rate.
    np.testing.assert_allclose(updates["head"]["kernel"], -0.01, rtol=1e-5)
    np.testing.assert_allclose(updates["backbone"]["conv1"]["kernel"], -0.001, rtol=1e-5)
    np.testing.assert_allclose(updates["backbone"]["conv1"]["bias"], 0.001, rtol=1e-5)
    assert not np.any(updates["backbone"]["bn"]["scale"])


def test_weight_decay_is_for_kernels():
    updates = one_step(Optim(learning_rate=0.01, weight_decay=0.5))
    np.testing.assert_allclose(updates["backbone"]["conv1"]["kernel"], -0.01 - 0.01 * 0.5 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(updates["backbone"]["conv1"]["bias"], 0.01, rtol=1e-5)


def test_schedule():
    rate = optim.schedule(Optim(learning_rate=2.0, warmup_steps=4, schedule="cosine"), 12)
    np.testing.assert_allclose([rate(0), rate(2), rate(4), rate(8), rate(12)], [0, 1, 2, 1, 0], atol=1e-6)
    rate = optim.schedule(Optim(learning_rate=2.0), 12)
    np.testing.assert_allclose([rate(0), rate(11)], 2.0)


def test_table_names_groups_and_counts():
    lines = optim.table(CONFIG, PARAMS).splitlines()
    assert [line.split()[-3:] for line in lines[1:]] == [
        ["frozen", "1", "2"],
        ["0.001", "2", "9"],
        ["0.01", "1", "6"],
    ]


def test_a_pattern_without_match_is_named():
    with pytest.raises(ValueError, match=r"'bakbone/\.\*' matches no parameter.*backbone/bn/scale"):
        optim.table(Optim(groups=(("bakbone/.*", 0.1),)), PARAMS)


def test_trainable_leaves_frozen_out():
    assert sum(leaf.size for _, leaf in optim.trainable(CONFIG, PARAMS)) == 15
    names = [name for name, _ in optim.trainable(CONFIG, PARAMS)]
    assert len(set(names)) == len(names)


def test_the_originals_learning_rates_by_depth():
    config = PRESETS["cub_inception_original"]
    module = models.build(config.model)
    images = jnp.zeros((1, 299, 299, 3))
    variables = jax.eval_shape(lambda key: module.init(key, images, train=False), jax.random.key(0))
    # Convolution, scale and bias of each unit; weights and bias of the layer.
    stem, mixed, head = 5 * 3, 89 * 3, 2
    lines = optim.table(config.optim, variables["params"]).splitlines()
    assert [line.split()[-3:-1] for line in lines[1:]] == [
        ["8e-06", str(mixed)],
        ["4e-06", str(stem)],
        ["4e-05", str(head)],
    ]
