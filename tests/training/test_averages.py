"""Moving averages of the network: their formula, what embeds by them, and checkpoints with and without them."""
# ruff: noqa: F811 (fixtures)

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxml
from jaxml.config import Model, Train
from jaxml.training import input_triplets, run, train
from jaxml.training.checkpoint import Checkpoints
from jaxml.training.learner import averaged, create
from jaxml.training.weights import load_weights
from tests.models.weights import torchvision_weights
from tests.training import test_step
from tests.training.test_checkpoint import equal
from tests.training.test_run import Stop, StopAt, assert_same_run, config, pictures, untrained  # noqa: F401
from tests.training.test_step import IMAGES, difference, run_steps

STEPS = 4
# Steps 1 to 3 take (1 + t) / (10 + t), which is 0.18, 0.25 and 0.31; step 4 would take 0.36.
DECAY = 0.32
CONFIG = replace(test_step.CONFIG, train=Train(steps=10, ema=DECAY))


@pytest.fixture(scope="module")
def single():
    return run_steps(CONFIG, 1, STEPS)


def followed(found):
    """The averages after all steps, from the parameters and statistics after each, by loops in float64."""
    _, start = create(CONFIG, 10)
    states = [jax.device_get(start), *found.states]
    wanted = [np.asarray(x, np.float64) for x in jax.tree.leaves(states[0][1:3])]
    for t, state in enumerate(states[1:], start=1):
        decay = min(DECAY, (1 + t) / (10 + t))
        for i, x in enumerate(jax.tree.leaves(state[1:3])):
            wanted[i] = decay * wanted[i] + (1 - decay) * x
    return wanted


@pytest.mark.parametrize("devices", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 4])
def test_averages_follow_their_formula_on_any_number_of_devices(single, devices):
    found = single if devices == 1 else run_steps(CONFIG, devices, STEPS)
    assert found.traces == 1
    last = found.last.averages
    for x, wanted in zip(
        jax.tree.leaves((last["params"], last["batch_stats"])), followed(found), strict=True
    ):
        np.testing.assert_allclose(x, wanted, rtol=1e-5, atol=1e-6)
    assert difference(last["params"], found.last.params) > 1e-4
    assert difference(single.last.averages, last) < 1e-3


def test_what_does_not_move_is_its_average_to_the_last_bit(single):
    frozen = [("bn0", "bias"), ("conv1", "bias"), ("conv2", "bias"), ("fc1", "bias")]
    _, start = create(CONFIG, 10)
    for layer, name in frozen:
        found = single.last.averages["params"]["backbone"][layer][name]
        np.testing.assert_array_equal(found, start.params["backbone"][layer][name])


@pytest.mark.slow  # in make test, tests/training/test_step.py has it of the plain step
def test_many_steps_in_a_call_give_the_same_averages():
    one, many = (run_steps(CONFIG, 1, STEPS, per_call=count) for count in (1, STEPS))
    assert equal(one.last, many.last)


def test_the_network_embeds_by_its_averages(single):
    learner, _ = create(CONFIG, 10)
    embed = run.pixel_embedder(learner, jax.devices()[:1])
    state = single.last
    found, averages = embed(state, IMAGES[:6]), state.averages
    as_parameters = state._replace(
        params=averages["params"], batch_stats=averages["batch_stats"], averages=None
    )
    np.testing.assert_array_equal(found, embed(as_parameters, IMAGES[:6]))
    assert np.abs(found - embed(state._replace(averages=None), IMAGES[:6])).max() > 1e-4


class EarlierState(NamedTuple):
    """The state as it was before there were averages."""

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any


def test_checkpoints_from_before_averages_are_read(tmp_path):
    _, state = create(test_step.CONFIG, 10)
    assert state.averages is None
    state = state._replace(step=np.int32(7), params=jax.tree.map(lambda x: x + 0.5, state.params))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(7, EarlierState(*state[:4]), score=0.5, meta={})
    restored, _ = checkpoints.restore_newest(create(test_step.CONFIG, 10)[1])
    assert equal(restored, state)
    # And the other way round: nothing is added while there are no averages.
    checkpoints.save(8, state, score=0.5, meta={})
    assert equal(tuple(checkpoints.restore(EarlierState(*state[:4]), 8)[0]), tuple(state[:4]))


def test_averages_begin_at_pretrained_weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(torchvision_weights.weights("squeezenet1_1"), path)
    model = Model(backbone="squeezenet1_1", feature_size=8, weights=str(path))
    _, state = create(replace(CONFIG, model=model, optim=replace(CONFIG.optim, groups=())), 10)
    state, _ = load_weights(replace(CONFIG, model=model), state)
    assert state.averages is None, "the initial parameters would be in them"
    assert equal(averaged(CONFIG, state).averages["params"], state.params)


def test_a_stopped_run_goes_on_with_its_averages(config, tmp_path):
    config = replace(config, train=replace(config.train, ema=0.9))
    train.train(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train.train(config, tmp_path / "stopped", callbacks=[StopAt(8)])
    train.train(config, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    opened = run.load(tmp_path / "whole")
    pixels = next(opened.images.read([np.arange(4)]))
    np.testing.assert_allclose(
        jaxml.load(tmp_path / "whole").embed(pixels), opened.embed(np.arange(4)), atol=1e-5
    )
    raw = opened.embed(np.arange(4), opened.state._replace(averages=None))
    assert np.abs(raw - opened.embed(np.arange(4))).max() > 1e-3


def test_triplets_are_chosen_by_the_network_that_learns(config, tmp_path, monkeypatch):
    config = replace(
        config,
        data=replace(config.data, classes_per_batch=3),
        train=replace(config.train, mode="input_triplets", ema=0.9),
        triplets=replace(config.triplets, sampling="hardest", regenerate_every=2),
    )
    untrained(config, tmp_path / "run", [2])
    opened, seen = run.load(tmp_path / "run"), []

    def embed(self, rows, state=None):
        seen.append(state or self.state)
        return np.random.default_rng(0).normal(size=(len(rows), 8)).astype(np.float32)

    monkeypatch.setattr(run.Run, "embed", embed)
    next(input_triplets.batches(opened, 2))
    assert opened.state.averages is not None
    assert [state.averages for state in seen] == [None]
