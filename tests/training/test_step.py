"""The training step: the same on 1, 2 and 4 devices, whole or in chunks, one step or many in a call."""

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np
import pytest

from jaxml.config import Config, Data, Eval, Loss, Model, Optim, Train
from jaxml.data.sampling import class_table
from jaxml.training import step as training
from jaxml.training.devices import parallel, replicate
from jaxml.training.learner import TrainState, create
from jaxml.training.resident_steps import divided, draw, resident_step, resident_steps

CONFIG = Config(
    data=Data(stored_size=32, size=28, classes_per_batch=4, images_per_class=4, jitter=0.2),
    model=Model(backbone="simple", feature_size=8),
    loss=Loss(norm_weight=1e-3),
    # A bias that BatchNorm cancels has a gradient of 0 up to rounding, which Adam would scale up to a whole step.
    optim=Optim(learning_rate=1e-3, groups=(("backbone/(bn0|conv1|conv2|fc1)/bias", 0.0), ("head/.*", 0.5))),
    train=Train(steps=10),
)
rng = np.random.default_rng(0)
LABELS = np.repeat(np.arange(10), 6).astype(np.int32)
# Each class has its own colour and noise, so that there is something to learn.
IMAGES = np.clip(
    rng.uniform(0, 255, (10, 1, 1, 3))[LABELS] + rng.normal(0, 60, (60, 32, 32, 3)), 0, 255
).astype(np.uint8)


def reader(images):
    """The function that reads these images, as a data set's `read` does."""
    return lambda batches: (images[rows] for rows in batches)


def run_steps(config, devices, steps, per_call=None):
    """States after each call of some resident steps, metrics [steps], and how often it was traced.

    One step a call, or `per_call` of them in a loop on the device.
    """
    used = jax.devices()[:devices]
    learner, state = create(config, 10)
    traces = []

    def counted(*args):
        traces.append(1)
        if per_call:
            return resident_steps(learner, per_call, *args)
        state, metrics = resident_step(learner, *args)
        return state, jax.tree.map(lambda x: x[None], metrics)

    call = parallel(counted, in_axes=(None, 0, None), devices=used)
    pixels = divided(reader(IMAGES), np.arange(len(IMAGES)), used)
    state, table = replicate((state, class_table(LABELS, np.arange(10))), used)
    states, rows = [], []
    for _ in range(0, steps, per_call or 1):
        state, metrics = call(state, pixels, table)
        states.append(jax.device_get(state))
        rows.append(jax.device_get(metrics))
    metrics = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return Steps(states, metrics, len(traces))


def test_arguments_with_as_many_leaves_as_there_are_arguments():
    """A tuple of three and two that are None, whose axes pmap itself confuses."""
    call = parallel(
        lambda parts, x, *_: sum(parts) + x.sum(), (None, 0, None, None), jax.devices()[:2], out_axes=0
    )
    found = call((1.0, 2.0, 4.0), np.arange(6.0).reshape(2, 3), None, None)
    np.testing.assert_array_equal(found, [10.0, 19.0])


class Steps(NamedTuple):
    states: list[TrainState]
    metrics: dict
    traces: int

    @property
    def first(self):
        return self.states[0]

    @property
    def last(self):
        return self.states[-1]


def difference(a, b):
    """Largest difference of two trees, relative to the largest entry of all."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    return max(np.max(np.abs(x - y)) for x, y in pairs) / max(np.max(np.abs(x)) for x, _ in pairs)


def moments(state):
    """Adam's first moments: sums of gradients, without the division that scales up those that are nearly zero."""
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    found = [
        leaf
        for path, leaf in leaves
        if "mu" in jax.tree_util.keystr(path, simple=True, separator=" ").split()
    ]
    assert found
    return found


@pytest.fixture(scope="module")
def single():
    return run_steps(CONFIG, devices=1, steps=4)


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_device_counts_agree(single, devices):
    found = run_steps(CONFIG, devices, steps=4)
    assert found.traces == 1, "the step was compiled again"
    share = single.metrics["active_share"]
    assert np.all((share > 0) & (share < 1))
    np.testing.assert_allclose(found.metrics["loss"], single.metrics["loss"], rtol=1e-5)
    assert difference(moments(single.first), moments(found.first)) < 1e-5
    assert difference(single.first.batch_stats, found.first.batch_stats) < 1e-5
    assert difference(moments(single.last), moments(found.last)) < 1e-4


def test_many_steps_in_a_call_are_the_same_steps(single):
    one = run_steps(CONFIG, devices=1, steps=16, per_call=1)
    many = run_steps(CONFIG, devices=1, steps=16, per_call=16)
    assert many.traces == 1, "the loop was compiled again"
    assert all(np.array_equal(one.metrics[name], many.metrics[name]) for name in one.metrics)
    assert jax.tree.all(jax.tree.map(np.array_equal, one.last, many.last))
    # Compiled outside a loop the step rounds differently, no more.
    np.testing.assert_allclose(many.metrics["loss"][:4], single.metrics["loss"], rtol=1e-5)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_chunks_give_the_gradient_of_the_whole_batch(devices):
    config = replace(CONFIG, model=replace(CONFIG.model, batch_norm="frozen"))
    whole = run_steps(config, devices, steps=1)
    chunked = run_steps(replace(config, train=replace(config.train, chunk=2)), devices, steps=1)
    np.testing.assert_allclose(chunked.metrics["loss"], whole.metrics["loss"], rtol=1e-5)
    assert difference(moments(whole.last), moments(chunked.last)) < 1e-5


def test_chunks_refuse_statistics_of_the_batch():
    with pytest.raises(ValueError, match="batch_norm frozen"):
        create(replace(CONFIG, train=replace(CONFIG.train, chunk=2)), 10)


def test_learning_lowers_the_share_of_violated_triplets():
    config = replace(CONFIG, optim=Optim(learning_rate=3e-3), train=Train(steps=60))
    metrics = run_steps(config, devices=1, steps=60).metrics
    assert metrics["active_share"][-10:].mean() < 0.7 * metrics["active_share"][:10].mean()


def test_frozen_parameters_do_not_move_by_a_bit():
    config = replace(CONFIG, optim=Optim(groups=(("backbone/.*", 0.0),)))
    _, start = create(config, 10)
    state = run_steps(config, devices=1, steps=2).last
    same = jax.tree.map(np.array_equal, jax.device_get(start.params), state.params)
    assert jax.tree.all(same["backbone"])
    assert not jax.tree.all(same["head"])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Loss("triplets"), "it must be one of .*triplet"),
        (Loss("triplet", (("margins", 1.0),)), "no margins; it takes .*margin"),
    ],
)
def test_unknown_loss_or_option_is_named(loss, message):
    with pytest.raises(ValueError, match=message):
        create(replace(CONFIG, loss=loss), 10)


def test_embedding_at_another_size_and_mirrored():
    config = replace(CONFIG, model=Model(backbone="squeezenet1_1", feature_size=8), optim=Optim())

    def embed(evaluation, *batches):
        learner, state = create(replace(config, eval=evaluation), 10)
        call = jax.jit(lambda x: training.embed_step(learner, state.params, state.batch_stats, x))
        return [np.asarray(call(images)) for images in batches]

    images, mirrored = IMAGES[:6], IMAGES[:6, :, ::-1]
    larger = Eval(size=40)
    one_way, other_way = embed(larger, images, mirrored)
    assert np.abs(one_way - embed(Eval(), images)[0]).max() > 1e-3
    assert np.abs(one_way - other_way).max() > 1e-3
    both = one_way + other_way
    (found,) = embed(replace(larger, mirror=True), images)
    np.testing.assert_allclose(found, both / np.linalg.norm(both, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("mirror", [pytest.param(False, marks=pytest.mark.slow), True])
def test_embedding_of_several_central_crops(mirror):
    """The mean of what the single crops give, each a square of 32, 24 or 16 pixels of the picture."""
    config = replace(CONFIG, model=Model(backbone="squeezenet1_1", feature_size=8), optim=Optim())

    def embed(crops, mirror, *batches):
        learner, state = create(replace(config, eval=Eval(crops=crops, mirror=mirror)), 10)
        call = jax.jit(lambda x: training.embed_step(learner, state.params, state.batch_stats, x))
        return [np.asarray(call(images)) for images in batches]

    crops, ways = (1.0, 0.75, 0.5), [IMAGES[:3], IMAGES[:3, :, ::-1]][: 1 + mirror]
    single = [x for share in crops for x in embed((share,), False, *ways)]
    assert min(np.abs(a - b).max() for a, b in pairwise(single)) > 1e-3
    total = np.sum(single, axis=0)
    (found,) = embed(crops, mirror, IMAGES[:3])
    np.testing.assert_allclose(found, total / np.linalg.norm(total, axis=1, keepdims=True), atol=1e-5)


def test_networks_with_one_input_size_refuse_another():
    with pytest.raises(ValueError, match=r"eval\.size: simple takes images of one size only"):
        create(replace(CONFIG, eval=Eval(size=40)), 10)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("side", [16, 20])  # the first fills whole lines
def test_a_batch_of_images_that_are_divided_among_devices(side, devices):
    """Seven of nine images, with one of the seven twice in the batch."""
    used = jax.devices()[:devices]
    images = np.random.default_rng(1).integers(0, 256, (9, side, side, 3), np.uint8)
    rows, batch = np.array([8, 1, 3, 4, 0, 7, 5]), np.array([6, 0, 2, 6])
    lines = divided(reader(images), rows, used)
    assert lines.shape == (devices, -(-7 // devices), -(-side * side * 3 // 128), 128)
    call = parallel(lambda x, indices: draw(x, indices, side), (0, None), used, out_axes=0)
    found = np.asarray(call(lines, batch)).reshape(4, side, side, 3)
    np.testing.assert_array_equal(found, images[rows[batch]])
