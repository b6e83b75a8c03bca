"""Frozen stages in the training step: nothing of them moves, and their backward pass is gone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.config import Config, Data, Model, Optim, Train
from jaxml.models import BACKBONES, squeezenet
from jaxml.models.stages import stage_of
from jaxml.planning import program
from jaxml.training import step as training
from jaxml.training.learner import create
from tests.training import test_step
from tests.training.test_step import difference, moments, run_steps

SIMPLE = replace(
    test_step.CONFIG,
    model=Model(backbone="simple", feature_size=8, frozen_stages=2),
    optim=Optim(learning_rate=1e-2, weight_decay=0.1, layer_decay=0.5),
)
SQUEEZENET = Config(
    data=Data(stored_size=64, size=64, classes_per_batch=4, images_per_class=2),
    model=Model(backbone="squeezenet1_1", feature_size=8),
)


@pytest.fixture(scope="module")
def two_devices():
    return run_steps(SIMPLE, 2, steps=2)


@pytest.mark.parametrize("chunk", [0, 2])
def test_nothing_of_frozen_stages_moves_by_a_bit(two_devices, chunk):
    config = replace(
        SIMPLE, model=replace(SIMPLE.model, batch_norm="frozen"), train=Train(steps=10, chunk=chunk)
    )
    _, start = create(SIMPLE, 10)
    last = run_steps(config, 1, steps=2).last if chunk else two_devices.last
    for path, leaf in jax.tree_util.tree_leaves_with_path(last.params):
        before = start.params
        for key in path:
            before = before[key.key]
        live = path[0].key != "backbone" or path[1].key in ("fc1", "bn3")
        assert np.array_equal(leaf, before) != live, path
    same = jax.tree.map(np.array_equal, last.batch_stats, jax.device_get(start.batch_stats))["backbone"]
    assert all(all(same[layer].values()) for layer in ("bn0", "bn1", "bn2"))
    assert any(same["bn3"].values()) == bool(chunk)


def test_device_counts_agree_and_many_steps_in_a_call_are_the_same_steps(two_devices):
    one, many = (run_steps(SIMPLE, 1, steps=2, per_call=count) for count in (1, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, one.last, many.last))
    np.testing.assert_allclose(two_devices.metrics["loss"], one.metrics["loss"], rtol=1e-4)
    assert difference(moments(one.first), moments(two_devices.first)) < 1e-5


def operations_of_convolutions(frozen):
    """Multiplications and additions of a step's convolutions, by hand: forward, and twice that backward if trained.

    Backward only once that where the input needs no gradient, which is at the first one that is trained. Products
    with the zeros of the padding do not count.
    """
    images, maps, total, trained = 8, {"features_0": (31, 3, 3, 64)}, 0, False
    sizes = zip((3, 4, 6, 7, 9, 10, 11, 12), squeezenet._FIRES, (15, 15, 7, 7, 3, 3, 3, 3), strict=True)
    channels = 64
    for index, (squeeze, expand), side in sizes:
        maps[f"features_{index}/squeeze"] = (side, 1, channels, squeeze)
        maps[f"features_{index}/expand1x1"] = (side, 1, squeeze, expand)
        maps[f"features_{index}/expand3x3"] = (side, 3, squeeze, expand)
        channels = 2 * expand
    for path, (side, kernel, inputs, outputs) in maps.items():
        taps = kernel * side if path == "features_0" or kernel == 1 else kernel * side - 2
        forward = 2 * images * taps**2 * inputs * outputs
        first, trained = not trained, stage_of(BACKBONES["squeezenet1_1"].stages, path) >= frozen
        total += forward * (1 + trained * (2 - first))
    return total


def test_the_backward_pass_of_frozen_stages_is_gone():
    """Operations as JAX lowers the step, before a compiler removes anything, fall as those counted by hand.

    A quarter more are those that are no products: of ReLU, pooling, biases and the optimiser.
    """
    found = []
    for frozen in (0, 1, 3):
        config = replace(SQUEEZENET, model=replace(SQUEEZENET.model, frozen_stages=frozen))
        found.append(program.lower(config, jax.devices()[:1], 100, 4).cost_analysis()["flops"])
    saved, wanted = -np.diff(found), -np.diff([operations_of_convolutions(frozen) for frozen in (0, 1, 3)])
    assert np.all(saved > wanted), (saved, wanted)
    assert np.all(saved < 1.25 * wanted), (saved, wanted)


@pytest.mark.parametrize(("frozen", "side"), [(0, 31), (1, 15), (2, 7), (3, 3), (4, 0)])
def test_activations_of_frozen_stages_are_not_kept(frozen, side):
    """The largest map that the backward pass of the network gets; those of the stages have 31, 15, 7 and 3 pixels."""
    config = replace(SQUEEZENET, model=replace(SQUEEZENET.model, frozen_stages=frozen))
    learner, state = create(config, 4)
    images, keys = jnp.zeros((2, 64, 64, 3), jnp.uint8), jax.random.split(jax.random.key(0), 2)

    def backward(params):
        return jax.vjp(
            lambda params: training.features(learner, params, state.batch_stats, images, keys)[0], params
        )[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, state.params))
    maps = [leaf.shape for leaf in kept if leaf.ndim == 4 and leaf.shape[0] == 2 and leaf.shape[-1] != 3]
    assert max((shape[1] for shape in maps), default=0) == side


def test_whoever_embeds_gets_the_gradient_of_frozen_stages():
    """`jaxml.load` gives a function of all parameters, whichever of them were trained."""
    learner, state = create(SIMPLE, 10)
    images = test_step.IMAGES[:2]

    def first(params):
        return training.embed_step(learner, params, state.batch_stats, images)[0, 0]

    gradient = jax.jit(jax.grad(first))(state.params)
    assert np.abs(gradient["backbone"]["conv1"]["kernel"]).max() > 0
