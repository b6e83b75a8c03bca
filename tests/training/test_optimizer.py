"""Learning rates by group: one Adam step moves a parameter by the learning rate times its factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import models
from jaxml.config import Config, Model, Optim
from jaxml.config.presets import PRESETS
from jaxml.training import optimizer as optim

PARAMS = {
    "backbone": {
        "conv1": {"kernel": jnp.full((2, 3), 0.5), "bias": jnp.zeros(3)},
        "bn": {"scale": -jnp.zeros(2)},
    },
    "head": {"kernel": jnp.ones((3, 2))},
}
CONFIG = Config(optim=Optim(learning_rate=0.01, groups=(("backbone/bn/.*", 0.0), ("backbone/.*", 0.1))))


def one_step(config, at=0):
    optimizer = optim.make(config, PARAMS)
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
    updates = one_step(Config(optim=Optim(learning_rate=0.01, weight_decay=0.5)))
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
        optim.table(Config(optim=Optim(groups=(("bakbone/.*", 0.1),))), PARAMS)


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
    lines = optim.table(config, variables["params"]).splitlines()
    assert [line.split()[-3:-1] for line in lines[1:]] == [
        ["8e-06", str(mixed)],
        ["4e-06", str(stem)],
        ["4e-05", str(head)],
    ]


STAGES = {
    "backbone": {
        name: {"kernel": jnp.ones((2, 2))} for name in ("bn0", "conv1", "bn1", "conv2", "bn2", "fc1", "bn3")
    },
    "head": {"kernel": jnp.ones((2, 2))},
    "pooling": {"p": jnp.float32(3)},
    "loss": jnp.ones((4, 2)),
}


def moved(config):
    """How far the first step of Adam moves each parameter, by the beginning of its path, in hundredths."""
    optimizer = optim.make(config, STAGES)
    grads = jax.tree.map(jnp.ones_like, STAGES)
    updates, _ = optimizer.update(grads, optimizer.init(STAGES), STAGES)
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    return {
        optim.path_name(path).removesuffix("/kernel"): float(-100 * leaf.ravel()[0]) for path, leaf in leaves
    }


def test_layer_decay_slows_each_stage_more_than_the_next():
    found = moved(Config(optim=Optim(learning_rate=0.01, layer_decay=0.5)))
    rates = {"bn0": 0.25, "conv1": 0.25, "bn1": 0.25, "conv2": 0.5, "bn2": 0.5, "fc1": 1, "bn3": 1}
    wanted = {f"backbone/{name}": rate for name, rate in rates.items()}
    assert found == pytest.approx({**wanted, "head": 1, "pooling/p": 1, "loss": 1}, rel=1e-4)


def test_stages_groups_and_frozen_stages_multiply():
    groups = ((".*/bn./.*", 0.1), ("head/.*", 2.0))
    config = Config(
        model=Model(frozen_stages=1),
        optim=Optim(learning_rate=0.01, layer_decay=0.5, groups=groups, weight_decay=0.1),
    )
    found = moved(config)
    assert [found[f"backbone/{name}"] for name in ("bn0", "conv1", "bn1")] == [0, 0, 0]
    # Weight decay adds a tenth to kernels.
    factors = {"backbone/bn2": 0.05, "backbone/conv2": 0.5, "backbone/bn3": 0.1, "backbone/fc1": 1, "head": 2}
    assert {name: found[name] for name in factors} == pytest.approx(
        {name: 1.1 * factor for name, factor in factors.items()}, rel=1e-4
    )
    assert [name for name, _ in optim.trainable(config, STAGES)] == [
        *(f"backbone/{name}/kernel" for name in ("bn2", "bn3", "conv2", "fc1")),
        *("head/kernel", "loss", "pooling/p"),
    ]
    lines = [line.split("  ") for line in optim.table(config, STAGES).splitlines()[1:]]
    assert [[cell.strip() for cell in line if cell.strip()] for line in lines] == [
        [".*/bn./.*", "0.001", "1", "4"],
        [".*/bn./.*, stage 1", "frozen", "2", "8"],
        [".*/bn./.*, stage 2", "0.0005", "1", "4"],
        ["head/.*", "0.02", "1", "4"],
        ["everything else", "0.01", "3", "13"],
        ["everything else, stage 1", "frozen", "1", "4"],
        ["everything else, stage 2", "0.005", "1", "4"],
    ]


def test_without_decay_and_frozen_stages_the_state_of_the_optimiser_is_as_it_was():
    """Checkpoints name its arrays, one count for each factor, used or not."""
    config = Config(optim=Optim(groups=(("head/.*", 0.5), ("backbone/.*", 0.5), (".*", 0.25))))
    state = optim.make(config, STAGES).init(STAGES)
    assert set(state.inner_states) == {"1x", "0.5x", "0.25x", "frozen"}
