"""Learning from a teacher: what the step minimises, on any number of devices, and runs that stop and go on."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxml
from jaxml import config as configs
from jaxml.config import Config
from jaxml.data.sampling import class_table, sample
from jaxml.errors import RunError
from jaxml.planning import program
from jaxml.training import provenance, run, saved, start, train
from jaxml.training.callbacks import Callback
from jaxml.training.checkpoint import Checkpoints, flatten
from jaxml.training.devices import parallel, replicate
from jaxml.training.learner import create
from jaxml.training.resident_steps import divided, resident_step, resident_steps
from jaxml.training.step import features, guidance
from jaxml.training.teacher import open_teacher
from tests import loops
from tests.training.test_run import Stop, StopAt, assert_same_run, config, pictures, untrained  # noqa: F401
from tests.training.test_step import CONFIG, IMAGES, LABELS, difference, moments, reader

FROZEN = {"model.batch_norm": "frozen"}


@pytest.fixture(scope="module")
def teachers(pictures, tmp_path_factory):  # noqa: F811
    """Runs of other backbones, widths and sizes of images than those that learn from them; untrained, but saved."""
    root, found = tmp_path_factory.mktemp("teachers"), []
    for seed in (1, 2):
        changes = {
            "data.source": "folder",
            "data.root": str(pictures),
            "data.split": "0-4/5-6/7-9",
            "data.stored_size": 24,
            "data.size": 36,
            "data.cache": str(root / "cache"),
            "model.backbone": "shallow",
            "model.feature_size": 24,
            "model.dropout": 0.5,
            "train.steps": 3,
            "train.seed": seed,
        }
        found.append(root / f"run{seed}")
        found[-1].mkdir()
        untrained(configs.override(Config(), changes), found[-1], [3])
    return found


def taught(base, teacher, **changes):
    return configs.override(base, {"distill.teacher": str(teacher), **changes})


def steps(config, devices, count=1, per_call=None):  # noqa: F811
    """State and metrics [count] after some resident steps with a teacher."""
    used, teacher = jax.devices()[:devices], open_teacher(config)
    learner, state = create(config, 10)
    learner = replace(learner, teacher=teacher.network)

    def step(*args):
        if per_call:
            return resident_steps(learner, per_call, *args)
        state, metrics = resident_step(learner, *args)
        return state, jax.tree.map(lambda x: x[None], metrics)

    call, rows = parallel(step, in_axes=(None, 0, None, None), devices=used), []
    arrays = state, class_table(LABELS, np.arange(10)), teacher.variables
    state, *data = replicate(arrays, used)
    data = divided(reader(IMAGES), np.arange(len(IMAGES)), used), *data
    for _ in range(0, count, per_call or 1):
        state, metrics = call(state, *data)
        rows.append(jax.device_get(metrics))
    return jax.device_get(state), {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


PAIRS = {**FROZEN, "loss.name": "contrastive"}


def test_the_step_minimises_the_weighted_sum(teachers):
    """Of the labels' loss and of the float64 loop over both networks' embeddings of the whole images of the batch."""
    weights = {"distill.weight": 0.5, "distill.loss_weight": 3.0, "distill.sigma": 0.1, "distill.delta": 1.3}
    whole = {"data.crop_area": (1.0, 1.0), "data.flip": False, "data.jitter": 0.0, "loss.norm_weight": 0.0}
    base = configs.override(CONFIG, {**PAIRS, **whole})
    _, found = steps(taught(base, teachers[0], **weights), devices=1)
    _, alone = steps(taught(base, teachers[0], **{**weights, "distill.loss_weight": 0.0}), devices=1)

    rows, labels = sample(0, 0, class_table(LABELS, np.arange(10)), 4, 4)
    images = IMAGES[np.asarray(rows)]
    learner, state = create(base, 10)
    keys = jax.vmap(lambda place: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), place))(
        np.arange(16)
    )
    outputs, _ = jax.jit(lambda x: features(learner, state.params, state.batch_stats, x, keys))(images)
    own = loops.unit(np.asarray(outputs, np.float64))
    network, saved_state = saved.load_variables(teachers[0])
    # Which shows no dropout, and whole images.
    other = run.pixel_embedder(network, jax.devices()[:1])(saved_state, images)
    assert (own.shape, other.shape) == ((16, 8), (16, 24))
    transfer = loops.relaxed_contrastive(own[None], other, delta=1.3, sigma=0.1).value[0].real
    by_labels = loops.contrastive(own[None].astype(complex), np.asarray(labels).tolist()).value[0].real
    np.testing.assert_allclose(found["transfer_loss"], transfer, rtol=1e-4)
    np.testing.assert_allclose(found["loss"], 3.0 * by_labels + 0.5 * transfer, rtol=1e-4)
    np.testing.assert_allclose(alone["loss"], 0.5 * transfer, rtol=1e-4)
    assert min(by_labels, transfer, alone["grad_norm"]) > 0.01


@pytest.fixture(scope="module")
def single(teachers):
    """With random crops, which the teacher is shown as well, and nested sizes."""
    config = taught(CONFIG, teachers[0], **PAIRS, **{"loss.nested_sizes": (4,), "distill.sigma": 0.1})  # noqa: F811
    return config, *steps(config, devices=1)


@pytest.mark.parametrize(
    ("devices", "chunk"),
    [*(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 0), (4, 0), (1, 4))), (2, 4)],
)
def test_devices_and_chunks_agree(single, devices, chunk):
    config, want, metrics = single  # noqa: F811
    found, again = steps(configs.override(config, {"train.chunk": chunk}), devices)
    np.testing.assert_allclose(again["loss"], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(again["transfer_loss"], metrics["transfer_loss"], rtol=1e-5)
    assert difference(moments(want), moments(found)) < 1e-5


@pytest.mark.slow  # in make test, tests/training/test_step.py has it of the plain step
def test_steps_in_a_loop_are_the_same_steps(single):
    config, want, _ = single  # noqa: F811
    one, of_one = steps(config, 1, count=2, per_call=1)
    two, of_two = steps(config, 1, count=2, per_call=2)
    assert all(np.array_equal(of_one[name], of_two[name]) for name in of_one)
    assert jax.tree.all(jax.tree.map(np.array_equal, one, two))
    assert flatten(want).keys() == flatten(create(config, 10)[1]).keys(), (
        "something of the teacher is in the state"
    )


def test_the_teacher_is_an_argument_of_the_program(teachers):
    """And the plan compiles the very step, without its checkpoint."""
    config = taught(CONFIG, teachers[0])  # noqa: F811
    sizes = [x.size for x in jax.tree.leaves(open_teacher(config).variables)]
    for source in ("resident", "tf_data"):
        config = configs.override(config, {"data.input": source})
        text = program.lower(config, jax.devices()[:2], 60, 10).as_text()
        plain = program.lower(
            configs.override(config, {"distill.teacher": ""}), jax.devices()[:2], 60, 10
        ).as_text()
        arguments, without = (t[t.index("@main(") : t.index("->")].count("tensor<") for t in (text, plain))
        assert arguments == without + len(sizes)
        # A constant of as many numbers as the teacher's smallest kernel would be many lines.
        assert max(map(len, text.splitlines())) < 20_000 + len(text[text.index("@main(") : text.index("->")])


@pytest.mark.parametrize("source", [pytest.param("resident", marks=pytest.mark.slow), "tf_data"])
def test_stopped_and_resumed_is_the_same_run(config, teachers, tmp_path, source):  # noqa: F811
    config = taught(config, teachers[0], **{"data.input": source, "distill.loss_weight": 0.5})
    seen = []

    class Watch(Callback):
        def on_step(self, run, step, metrics):
            seen.append(metrics["transfer_loss"])

    train.train(config, tmp_path / "whole", callbacks=[Watch()])
    assert np.isfinite(seen).all()
    assert len(set(seen)) == len(seen) == 12
    with pytest.raises(Stop):
        train.train(config, tmp_path / "stopped", callbacks=[StopAt(5)])
    record = json.loads((tmp_path / "stopped/teacher.json").read_text())
    assert (record["teacher"], record["step"]) == (str(teachers[0]), 3)
    assert configs.from_dict(record["config"]) == configs.load(teachers[0] / "config.json")
    about = jaxml.load(tmp_path / "whole").about
    known = {"source": "run1", "step": 3, "backbone": "shallow", "dimensions": 24}
    assert about["teacher"] == {**known, "sha256": record["sha256"]}
    assert about["loss"]["name"] == config.loss.name
    # The teacher has moved.
    moved = shutil.copytree(teachers[0], tmp_path / "moved")
    train.train(configs.override(config, {"distill.teacher": str(moved)}), tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    # Scoring needs no teacher.
    shutil.rmtree(moved)
    assert run.load(tmp_path / "stopped").teacher is None
    with pytest.raises(
        RunError, match=r"^--distill\.teacher must be the directory of a finished run: .*moved holds no"
    ):
        train.train(configs.load(tmp_path / "stopped/config.json"), tmp_path / "stopped", resume=True)


def test_a_start_with_a_teacher_that_has_saved_nothing_leaves_none_behind(config, teachers, tmp_path):  # noqa: F811
    with pytest.raises(Stop):
        train.learn(taught(config, teachers[0]), tmp_path / "run", callbacks=[StopAt(1)])
    assert (tmp_path / "run/teacher.json").exists()
    with pytest.raises(Stop):
        train.learn(config, tmp_path / "run", callbacks=[StopAt(1)])
    assert not (tmp_path / "run/teacher.json").exists()


def test_the_teacher_is_found_from_whatever_folder(config, teachers, monkeypatch):  # noqa: F811
    monkeypatch.chdir(teachers[0].parent)
    found = start.from_anywhere(taught(config, teachers[0].name))
    assert found == start.from_anywhere(taught(config, teachers[0]))
    assert found.distill.teacher == str(teachers[0])


def test_a_teacher_with_averages_teaches_by_them(config, teachers, tmp_path):  # noqa: F811
    """Its whole embedding, although its run is scored by another size and by crops."""
    averaging = {"train.ema": 0.9, "eval.feature_size": 4, "eval.crops": (0.5,), "eval.mirror": True}
    changed = configs.override(configs.load(teachers[0] / "config.json"), averaging)
    opened = run.open_run(changed, tmp_path / "teacher")
    averages = jax.tree.map(lambda x: x + 0.25, opened.state.averages)
    state = opened.state._replace(step=np.int32(3), averages=averages)
    opened.checkpoints.save(3, state, score=None, meta=provenance.meta(changed, opened.pictures))
    configs.save(tmp_path / "teacher/config.json", changed)
    teacher = open_teacher(taught(config, tmp_path / "teacher"))
    assert jax.tree.all(jax.tree.map(np.array_equal, teacher.variables, averages))
    plain = open_teacher(taught(config, teachers[0]))
    assert teacher.identity["sha256"] != plain.identity["sha256"]
    images, keys = IMAGES[:4], jax.random.split(jax.random.key(0), 4)
    learner = replace(create(config, 10)[0], teacher=teacher.network)
    found = guidance(learner, teacher.variables, images, keys)
    assert found.shape == (4, 24)
    assert difference(found, guidance(learner, plain.variables, images, keys)) > 1e-3


def test_another_teacher_is_refused(config, teachers, tmp_path):  # noqa: F811
    first = taught(config, teachers[0])
    with pytest.raises(Stop):
        train.train(first, tmp_path / "run", callbacks=[StopAt(5)])
    differs = r"^checkpoint 3 has learned from step 3 of run \w{12}, but --distill\.teacher is "
    for other, named in (
        (teachers[1], r"step 3 of run \w{12}; give the directory"),
        ("", "no teacher; give"),
    ):
        with pytest.raises(RunError, match=differs + named):
            train.train(
                configs.override(first, {"distill.teacher": str(other)}), tmp_path / "run", resume=True
            )
    with pytest.raises(RunError, match=r"differs in distill\.weight: 1.0 -> 2.0"):
        train.train(configs.override(first, {"distill.weight": 2.0}), tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run/teacher.json").read_text())["teacher"] == str(teachers[0])
    (tmp_path / "plain").mkdir()
    untrained(config, tmp_path / "plain", [3])
    with pytest.raises(
        RunError, match=r"checkpoint 3 has learned from no teacher, but --distill\.teacher is step 3 of"
    ):
        train.train(first, tmp_path / "plain", resume=True)


def test_a_teacher_that_is_none_or_not_finished(config, teachers, tmp_path):  # noqa: F811
    begins = r"^--distill\.teacher must be the directory of a finished run: "
    with pytest.raises(RunError, match=rf"{begins}.*none holds no run: there is no config\.json"):
        train.learn(taught(config, tmp_path / "none"), tmp_path / "a")
    unfinished = shutil.copytree(teachers[0], tmp_path / "unfinished")
    longer = configs.override(configs.load(unfinished / "config.json"), {"train.steps": 9})
    configs.save(unfinished / "config.json", longer)
    with pytest.raises(RunError, match=rf"{begins}.* has come to step 3 of 9; let it finish first"):
        train.learn(taught(config, unfinished), tmp_path / "b")
    shutil.rmtree(unfinished / "checkpoints")
    with pytest.raises(RunError, match=rf"{begins}.* has no checkpoint yet"):
        train.learn(taught(config, unfinished), tmp_path / "c")
    assert not any((tmp_path / name).exists() for name in "abc"), "a mistake has taken the directory"


def test_the_identity_of_a_teacher(config, teachers):  # noqa: F811
    """One number of one parameter changes it; where the weights of the teacher lie does not."""
    teacher = open_teacher(taught(config, teachers[0]))
    assert teacher.identity == open_teacher(taught(config, teachers[0], **{"distill.sigma": 2.0})).identity
    elsewhere = replace(teacher, config=configs.override(teacher.config, {"model.weights": "elsewhere"}))
    assert elsewhere.identity == teacher.identity
    pooled = replace(teacher, config=configs.override(teacher.config, {"model.pooling": "avg+max"}))
    assert pooled.identity != teacher.identity
    leaves, structure = jax.tree.flatten(teacher.variables)
    changed = np.array(leaves[0])
    changed.flat[0] += 1e-6
    other = replace(teacher, variables=jax.tree.unflatten(structure, [changed, *leaves[1:]]))
    assert other.identity["sha256"] != teacher.identity["sha256"]
    assert Checkpoints(teachers[0] / "checkpoints").steps() == [3]
    assert provenance.meta(config, provenance.Pictures(('["a"]',))).keys() == {"config", "data"}
