"""The memory of earlier batches in training: what it holds, on any number of devices, and in checkpoints."""
# ruff: noqa: F811 (fixtures)

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import config as configs
from jaxml import losses
from jaxml.config import Config, Loss
from jaxml.data.sampling import class_table, sample
from jaxml.distances import l2_normalize
from jaxml.training import train
from jaxml.training.checkpoint import Checkpoints
from jaxml.training.learner import create
from jaxml.training.step import embed_step
from tests.training import test_step
from tests.training.test_averages import EarlierState
from tests.training.test_checkpoint import equal
from tests.training.test_run import Stop, StopAt, assert_same_run, config, pictures  # noqa: F401
from tests.training.test_step import IMAGES, LABELS, difference, moments, run_steps

SIZE, BATCH, STEPS = 40, 16, 4
CONFIG = replace(test_step.CONFIG, loss=Loss("contrastive", memory_size=SIZE, memory_weight=0.7))
PLAIN = replace(
    CONFIG,
    data=replace(CONFIG.data, size=32, crop_area=(1.0, 1.0), flip=False, jitter=0.0),
    model=replace(CONFIG.model, batch_norm="frozen", frozen_stages=3),
)
"""In which images are taken as they are stored, and the frozen backbone has no dropout, so that what training embeds is
what embedding them gives."""


@pytest.fixture(scope="module")
def single():
    return run_steps(CONFIG, 1, STEPS)


def embedder(config):
    """The embeddings of some images by a state, as a function, and the initial state."""
    learner, start = create(config, 10)
    call = jax.jit(partial(embed_step, learner))
    return lambda state, indices: call(state.params, state.batch_stats, IMAGES[np.asarray(indices)]), start


def test_holds_the_last_embeddings_and_the_loss_is_against_them():
    found = run_steps(PLAIN, 1, STEPS)
    embed, start = embedder(PLAIN)
    rows, classes = [], []
    for step, state in enumerate([jax.device_get(start), *found.states[:-1]]):
        indices, labels = sample(0, step, class_table(LABELS, np.arange(10)), 4, 4)
        x = embed(state, indices)
        value, _ = losses.contrastive(x, labels)
        if rows:
            held = {
                "references": jnp.concatenate(rows)[-SIZE:],
                "reference_labels": jnp.concatenate(classes)[-SIZE:],
            }
            value += 0.7 * losses.contrastive(x, labels, **held)[0]
        np.testing.assert_allclose(found.metrics["loss"][step], value, rtol=1e-4)
        rows.append(x)
        classes.append(labels)
    memory = found.last.memory
    assert memory.filled.all()
    order = (np.arange(SIZE) + memory.next) % SIZE
    np.testing.assert_array_equal(memory.labels[order], np.concatenate(classes)[-SIZE:])
    np.testing.assert_allclose(memory.embeddings[order], np.concatenate(rows)[-SIZE:], atol=1e-5)


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_device_counts_agree(single, devices):
    found = run_steps(CONFIG, devices, STEPS)
    assert found.traces == 1
    np.testing.assert_allclose(found.metrics["loss"], single.metrics["loss"], rtol=1e-5)
    assert difference(moments(single.last), moments(found.last)) < 1e-4
    ours, theirs = single.last.memory, found.last.memory
    np.testing.assert_allclose(theirs.embeddings, ours.embeddings, atol=1e-4)
    assert equal(theirs[1:], ours[1:])


@pytest.mark.slow  # in make test, tests/training/test_step.py has it of the step without a memory
def test_chunks_and_many_steps_in_a_call_agree(single):
    frozen = replace(CONFIG, model=replace(CONFIG.model, batch_norm="frozen"))
    whole = run_steps(frozen, 1, 2)
    chunked = run_steps(replace(frozen, train=replace(frozen.train, chunk=4)), 1, 2)
    np.testing.assert_allclose(chunked.metrics["loss"], whole.metrics["loss"], rtol=1e-5)
    ours, theirs = whole.last.memory, chunked.last.memory
    np.testing.assert_allclose(theirs.embeddings, ours.embeddings, atol=1e-5)
    assert equal(theirs[1:], ours[1:])
    one, many = (run_steps(CONFIG, 1, STEPS, per_call=count) for count in (1, STEPS))
    assert equal(one.last, many.last)


def test_without_a_size_nothing_changes():
    loss = Loss("contrastive")
    plain = run_steps(replace(CONFIG, loss=loss), 1, 2)
    weighed = run_steps(replace(CONFIG, loss=replace(loss, memory_weight=0.1)), 1, 2)
    assert equal(plain.last, weighed.last)
    assert plain.last.memory is None
    remembered = run_steps(replace(CONFIG, loss=replace(loss, memory_size=SIZE)), 1, 2)
    assert remembered.metrics["loss"][0] == plain.metrics["loss"][0], "an empty memory adds nothing"
    assert abs(remembered.metrics["loss"][1] - plain.metrics["loss"][1]) > 1e-3


def test_checkpoints_from_before_memories_are_read(tmp_path):
    _, state = create(test_step.CONFIG, 10)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(7, EarlierState(*state[:4]), score=0.5, meta={})
    assert equal(checkpoints.restore_newest(state)[0], state)


@pytest.mark.parametrize("name", [pytest.param("triplet", marks=pytest.mark.slow), "margin"])
def test_a_stopped_run_goes_on_with_its_memory(config, tmp_path, name):
    config = configs.override(config, {"loss.name": name, "loss.memory_size": 20})
    train.train(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train.train(config, tmp_path / "stopped", callbacks=[StopAt(8)])
    train.train(config, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    states = [_last(folder, config) for folder in (tmp_path / "whole", tmp_path / "stopped")]
    assert equal(*states)
    assert states[0].memory.filled.all()


def _last(folder, config):
    return Checkpoints(folder / "checkpoints").restore_newest(create(config, 5)[1])[0]


@pytest.mark.parametrize("name", ["proxy_anchor", "arcface"])
def test_a_loss_that_compares_no_images_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"^--loss\.memory_size needs a loss that compares images .*; {name} does not$"
    ):
        create(replace(CONFIG, loss=Loss(name, memory_size=SIZE)), 10)


def test_given_triplets_are_refused():
    values = {"train.mode": "input_triplets", "data.classes_per_batch": 3}
    for option, value in (
        ("loss.memory_size", 5),
        ("loss.class_weights", (("a", 2.0),)),
        ("data.category", "(.)"),
    ):
        with pytest.raises(ValueError, match=rf"^--{option} needs --train\.mode batch"):
            configs.override(Config(), {**values, option: value})


def test_nested_sizes_are_cut_of_the_memory_too():
    sized = replace(PLAIN, loss=replace(PLAIN.loss, nested_sizes=(4,)))
    found = run_steps(sized, 1, 2)
    embed, start = embedder(sized)
    batches = []
    for step, state in enumerate([jax.device_get(start), found.first]):
        indices, labels = sample(0, step, class_table(LABELS, np.arange(10)), 4, 4)
        batches.append((embed(state, indices), labels))
    (r, ry), (x, y) = batches
    parts = [[l2_normalize(z[:, :m]) for z in (x, r)] for m in (4, 8)]
    want = [
        losses.contrastive(u, y)[0] + 0.7 * losses.contrastive(u, y, references=v, reference_labels=ry)[0]
        for u, v in parts
    ]
    np.testing.assert_allclose(found.metrics["loss"][1], np.mean(want), rtol=1e-4)
