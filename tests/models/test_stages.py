"""Stages of backbones: which layers are in them, that they follow one another, and what is kept frozen."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxml import config, models
from jaxml.models import BACKBONES
from jaxml.models.stages import stage_of
from tests.models.test_models import HEAVY, LIGHT, batch_of, fake_variables, shapes_of, size_of

SOME = [*LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)]


def network(name, **options):
    return models.build(config.Model(backbone=name, feature_size=8, **options))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_layer_is_in_one_stage_and_no_stage_is_empty(name):
    shapes = shapes_of(network(name), size_of(name))
    layers = {*shapes["params"]["backbone"], *shapes.get("batch_stats", {}).get("backbone", {})}
    stages = BACKBONES[name].stages
    found = [[i for i in range(len(stages)) if stage_of(stages[i : i + 1], layer) == 0] for layer in layers]
    assert all(len(numbers) == 1 for numbers in found), dict(zip(layers, found, strict=True))
    assert {numbers[0] for numbers in found} == set(range(len(stages)))


@pytest.mark.parametrize("name", SOME)
def test_stages_follow_one_another(name):
    """Other parameters of a stage change outputs of all later layers, and of no earlier one by a bit."""
    module, size = network(name), size_of(name)
    variables, images, stages = fake_variables(module, size), batch_of(size, 1), BACKBONES[name].stages
    layers = list(variables["params"]["backbone"])

    @jax.jit
    def outputs(params):
        _, seen = module.apply(
            {**variables, "params": params},
            images,
            train=False,
            capture_intermediates=True,
            mutable=["intermediates"],
        )
        return {layer: seen["intermediates"]["backbone"][layer]["__call__"][0] for layer in layers}

    before = outputs(variables["params"])
    for number in range(len(stages)):
        changed = {
            layer: jax.tree.map(lambda x: 1.1 * x + 0.01, params)
            if stage_of(stages, layer) == number
            else params
            for layer, params in variables["params"]["backbone"].items()
        }
        after = outputs({**variables["params"], "backbone": changed})
        for layer in layers:
            stage = stage_of(stages, layer)
            if stage != number:
                assert np.array_equal(after[layer], before[layer]) == (stage < number), (number, layer)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simple", {}),
        ("simple", {"dtype": "bfloat16"}),
        pytest.param("resnet50", {}, marks=pytest.mark.slow),
        pytest.param("resnet50", {"remat": True}, marks=pytest.mark.slow),
        pytest.param("inception_v3", {"remat": True}, marks=pytest.mark.slow),
    ],
)
def test_frozen_stages_are_as_in_evaluation(name, options):
    """All of them: outputs need no keys for dropout and no statistics change. Without the last: its own do change."""
    size = size_of(name)
    stages = BACKBONES[name].stages
    variables, images = fake_variables(network(name), size), batch_of(size, 2)

    @partial(jax.jit, static_argnums=(0, 1))
    def outputs(frozen, train, keys):
        module = network(name, frozen_stages=frozen, **options)
        return module.apply(variables, images, train=train, keys=keys, mutable=["batch_stats"])

    found, changed = outputs(len(stages), True, None)
    np.testing.assert_array_equal(found, outputs(0, False, None)[0])
    same = jax.tree.map(np.array_equal, changed["batch_stats"], variables["batch_stats"])
    assert jax.tree.all(same)
    found, changed = outputs(len(stages) - 1, True, jax.random.split(jax.random.key(0), 2))
    for path, statistic in jax.tree_util.tree_leaves_with_path(changed["batch_stats"]):
        before = variables["batch_stats"]
        for key in path:
            before = before[key.key]
        last = stage_of(stages, path[1].key) == len(stages) - 1
        assert np.array_equal(statistic, before) != last, path


@pytest.mark.parametrize("name", BACKBONES)
def test_more_stages_than_there_are(name):
    count = len(BACKBONES[name].stages)
    network(name, frozen_stages=count)
    message = f"--model.frozen_stages is {count + 1}; it must be at most {count}, the stages of {name}"
    with pytest.raises(ValueError, match=message):
        network(name, frozen_stages=count + 1)
