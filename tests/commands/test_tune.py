"""Tuning: it resumes, writes a preset, and has no way to read a test class."""

import hashlib
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from jaxml import config as configs
from jaxml.commands import tune
from jaxml.commands.train import parse_train
from jaxml.config.presets import PRESETS, SPACES
from jaxml.data import images, resident
from jaxml.errors import RunError
from jaxml.training import health, history, learner, train
from jaxml.training import weights as weights_of_run
from tests.experiments.test_stress import run as run_script
from tests.training.test_run import StopAt, config, pictures  # noqa: F401

SPACE = {
    "optim.learning_rate": ("log", 1e-4, 1e-2),
    "loss.options.margin": ("uniform", 0.05, 0.5),
    "data.flip": ("choice", True, False),
}


@pytest.fixture
def small(config):  # noqa: F811
    return replace(config, train=replace(config.train, steps=4, eval_every=2, save_every=1))


@pytest.mark.parametrize("name", SPACES)
def test_spaces_are_options_of_their_preset(name):
    for pick in (1, -1):
        options = {key: values[pick] for key, values in SPACES[name].items()}
        found = configs.override(PRESETS[name], options)
        learner.loss_function(found)


def test_study_goes_on_after_a_stop_and_never_sees_a_test_class(small, tmp_path, monkeypatch):
    seen, load, learn = [], resident.load, train.learn

    def recorded(index, data):
        seen.append(index)
        return load(index, data)

    stop = StopAt(3, KeyboardInterrupt, when=(tmp_path / "trial_001").exists)
    monkeypatch.setattr(resident, "load", recorded)
    monkeypatch.setattr(train, "learn", partial(learn, callbacks=[stop]))
    with pytest.raises(KeyboardInterrupt):
        tune.tune(small, SPACE, tmp_path, trials=2)
    assert not (tmp_path / "trial_002").exists()
    monkeypatch.setattr(train, "learn", learn)
    best = tune.tune(small, SPACE, tmp_path, trials=2)

    folders = sorted(path.name for path in tmp_path.glob("trial_*"))
    assert folders == ["trial_000", "trial_001"], "the trial that was stopped was not the one that went on"
    records = [history.read(tmp_path / name / "metrics.jsonl") for name in folders]
    assert [len([row for row in rows if "loss" in row]) for rows in records] == [4, 4]
    scores = [max(row.get("val_nmi", 0) for row in rows) for rows in records]
    assert best == max(scores)

    winner = configs.load(tmp_path / folders[int(np.argmax(scores))] / "config.json")
    chosen = parse_train(["--preset", str(tmp_path / "best.json")]).config
    assert chosen.data.split == small.data.split
    assert configs.differences(winner, chosen) == ["data.split: '0-4/5-6' -> '0-4/5-6/7-9'"]
    assert chosen.loss.options[0][0] == "margin"

    # Classes 7, 8 and 9 are for testing. Their pictures are not among those that a trial's data set is made of.
    assert len(seen) == 3
    assert {int(label) for index in seen for label in index.labels} == set(range(7))
    assert not any(name.startswith(("class7", "class8", "class9")) for index in seen for name in index.names)


def test_a_split_without_test_classes_has_no_test_images(small):
    blind = tune.without_test_classes(replace(small, data=replace(small.data, train_on="train+val")))
    assert blind.data.split == "0-4/5-6"
    assert blind.data.train_on == "train"
    opened = images.open_images(blind.data)
    assert len(opened.index.labels) == 7 * 8
    with pytest.raises(ValueError, match="no test classes"):
        opened.rows("test")


@pytest.fixture
def tried(monkeypatch):
    """Options of the trials that were run, without training: a trial's score is its learning rate."""
    found = []

    def scored(config, folder):  # noqa: F811
        found.append((config.optim.learning_rate, config.loss.options, config.data.flip))
        return min(1.0, config.optim.learning_rate * 100)

    monkeypatch.setattr(tune, "validation_nmi", scored)
    return found


def test_a_study_asks_the_same_options_however_often_it_is_stopped(small, tried, tmp_path):
    tune.tune(small, SPACE, tmp_path / "whole", trials=14)
    whole = tried[:]
    assert len(set(whole)) == 14
    for trials in (1, 3, 12, 14):
        tune.tune(small, SPACE, tmp_path / "stopped", trials=trials)
    assert tried[14:] == whole
    best = [tmp_path / name / "best.json" for name in ("whole", "stopped")]
    assert best[0].read_text() == best[1].read_text()
    tune.tune(replace(small, train=replace(small.train, seed=1)), SPACE, tmp_path / "seed", trials=1)
    assert tried[-1] not in whole


def test_a_stopped_trial_goes_on_with_its_own_options(small, tmp_path, monkeypatch):
    space = {f"loss.options.{name}": ("uniform", 0.1, 0.9) for name in ("margin", "beta", "alpha")}
    asked = []

    def stopped(config, folder):  # noqa: F811
        asked.append(config.loss.options)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return 0.5

    monkeypatch.setattr(tune, "validation_nmi", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune.tune(small, space, tmp_path, trials=1)
    tune.tune(small, space, tmp_path, trials=1)
    assert asked[0] == asked[1]
    assert [name for name, _ in asked[0]] == ["margin", "beta", "alpha"]


def other_pictures(small, folder):
    """The configuration with a copy of the pictures, two of which have been exchanged."""
    shutil.copytree(small.data.root, folder)
    one, two = folder / "class0/0.png", folder / "class1/0.png"
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)
    return replace(small, data=replace(small.data, root=str(folder)))


@pytest.fixture
def weights(small, tmp_path, monkeypatch):
    """The configuration with a file of weights, of which only the hash is used."""

    def load(config, state):  # noqa: F811
        return state, {"sha256": hashlib.sha256(Path(config.model.weights).read_bytes()).hexdigest()}

    monkeypatch.setattr(weights_of_run, "load_weights", load)
    (tmp_path / "w.npz").write_bytes(b"one")
    return replace(small, model=replace(small.model, weights=str(tmp_path / "w.npz")))


def test_a_study_does_not_go_on_with_anything_else(small, weights, tried, tmp_path):
    study = tmp_path / "study"
    tune.tune(weights, SPACE, study, trials=1)
    before = {path.name: path.read_bytes() for path in study.iterdir() if path.name != "run.lock"}

    def with_option(section, **values):
        part = replace(getattr(weights, section), **values)
        return replace(weights, **{section: part})

    cases = [
        (with_option("train", steps=6), SPACE, "train.steps: 4 -> 6"),
        (with_option("train", seed=1), SPACE, "train.seed: 0 -> 1"),
        (with_option("model", batch_norm="local"), SPACE, "model.batch_norm: 'sync' -> 'local'"),
        (with_option("eval", mirror=True), SPACE, "eval.mirror: False -> True"),
        (weights, {**SPACE, "model.dropout": ("uniform", 0.0, 0.5)}, "space.model.dropout: None -> "),
        (weights, {**SPACE, "data.flip": ("choice", False, True)}, r"space.data.flip: \['choice', True, Fal"),
        (other_pictures(weights, tmp_path / "other"), SPACE, "data_sha256: '"),
        (with_option("model", weights=""), SPACE, "weights_sha256: '[0-9a-f]+' -> ''"),
    ]
    for base, space, differs in cases:
        with pytest.raises(RunError, match=rf"{differs}.*choose another --workdir"):
            tune.tune(base, space, study, trials=2)
    Path(weights.model.weights).write_bytes(b"two")
    with pytest.raises(RunError, match=r"differs in weights_sha256: '[0-9a-f]+' -> '[0-9a-f]+'; choose"):
        tune.tune(weights, SPACE, study, trials=2)
    assert len(tried) == 1
    assert {name: (study / name).read_bytes() for name in before} == before
    (study / "trial_000").mkdir()
    (study / "study.db").unlink()
    with pytest.raises(RunError, match="weights_sha256"):
        tune.tune(weights, SPACE, study, trials=2)


def test_a_study_goes_on_where_data_and_weights_have_moved(weights, tried, tmp_path):
    tune.tune(weights, SPACE, tmp_path / "study", trials=1)
    root, file = tmp_path / "moved", tmp_path / "renamed.npz"
    shutil.copytree(weights.data.root, root)
    shutil.move(weights.model.weights, file)
    moved = replace(
        weights,
        data=replace(weights.data, root=str(root), cache=str(tmp_path / "elsewhere")),
        model=replace(weights.model, weights=str(file)),
        train=replace(weights.train, devices=2),
    )
    tune.tune(moved, SPACE, tmp_path / "study", trials=2)
    assert len(tried) == 2


def test_missing_data_and_weights_are_errors_where_all_trials_are_finished(weights, tried, tmp_path):
    tune.tune(weights, SPACE, tmp_path / "study", trials=1)
    gone = replace(weights, data=replace(weights.data, root=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="nowhere"):
        tune.tune(gone, SPACE, tmp_path / "study", trials=1)
    Path(weights.model.weights).unlink()
    with pytest.raises(OSError, match=r"w\.npz"):
        tune.tune(weights, SPACE, tmp_path / "study", trials=1)


def test_two_processes_do_not_work_on_one_study(small, tmp_path, monkeypatch):
    def second(config, folder):  # noqa: F811
        with pytest.raises(RunError, match=f"{tmp_path} is .* by process"):
            tune.tune(small, SPACE, tmp_path, trials=1)
        return 0.5

    monkeypatch.setattr(tune, "validation_nmi", second)
    assert tune.tune(small, SPACE, tmp_path, trials=1) == 0.5


def test_a_study_of_an_earlier_version_is_not_taken_for_this_one(small, tried, tmp_path):
    tune.tune(small, SPACE, tmp_path, trials=1)
    (tmp_path / "depends_on.json").unlink()
    with pytest.raises(RunError, match=r"has no depends_on\.json"):
        tune.tune(small, SPACE, tmp_path, trials=2)


@pytest.mark.parametrize("name", ["study.db", "depends_on.json"])
def test_a_damaged_study_is_one_line(small, tried, tmp_path, name):
    tune.tune(small, SPACE, tmp_path, trials=2)
    whole = (tmp_path / name).read_bytes()
    flipped = bytearray(whole)
    flipped[100 if name == "study.db" else len(whole) // 2] ^= 255
    damaged = [b"no database", whole[: len(whole) // 2], bytes(flipped)]
    if name == "depends_on.json":
        damaged += [b"", b"{}", b"[]", b"null", b"[" * 100_000, whole.replace(b"4", b"5")]
    for content in damaged:
        (tmp_path / name).write_bytes(content)
        with pytest.raises((RunError, ValueError), match=rf"{name} .*put a copy of it back") as refused:
            tune.tune(small, SPACE, tmp_path, trials=3)
        assert "\n" not in str(refused.value)
    (tmp_path / name).write_bytes(whole)
    tune.tune(small, SPACE, tmp_path, trials=3)
    assert len(tried) == 3


def test_only_training_that_fails_counts_as_a_trial(small, tmp_path, monkeypatch):
    """A folder with another run, or a wrong number of devices, says nothing about a trial's options."""
    devices = replace(small, train=replace(small.train, devices=3))
    with pytest.raises(RunError, match=r"8 cannot be divided among 3 .*--train\.devices"):
        tune.tune(devices, SPACE, tmp_path, trials=1)
    another = replace(small, model=replace(small.model, feature_size=9))
    configs.save(tmp_path / "trial_000/config.json", another)
    with pytest.raises(RunError, match=r"trial_000 holds another run; it differs in .*feature_size: 9 -> 8"):
        tune.tune(small, SPACE, tmp_path, trials=1)
    shutil.rmtree(tmp_path / "trial_000")

    def diverged(config, folder):  # noqa: F811
        if folder.name == "trial_000":
            health.check_finite({"loss": float("nan")}, np.zeros(0), [], 1)
        return 0.5

    monkeypatch.setattr(tune, "validation_nmi", diverged)
    with pytest.raises(RunError, match="all 1 trials"):
        tune.tune(small, SPACE, tmp_path, trials=1)
    assert tune.tune(small, SPACE, tmp_path, trials=2) == 0.5


def test_the_best_preset_is_written_again_where_it_is_missing(small, tried, tmp_path):
    tune.tune(small, SPACE, tmp_path, trials=2)
    best = (tmp_path / "best.json").read_text()
    (tmp_path / "best.json").unlink()
    tune.tune(small, SPACE, tmp_path, trials=2)
    assert (tmp_path / "best.json").read_text() == best
    assert json.loads(best)["data"]["split"] == small.data.split


@pytest.mark.parametrize("name", ["a folder, ü?#%20&x=1", "{braces}", "-x"])
def test_a_study_may_have_any_name(small, tried, tmp_path, name):
    tune.tune(small, SPACE, tmp_path / name, trials=1)
    assert {"study.db", "best.json"} <= {path.name for path in (tmp_path / name).iterdir()}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--trials", "0"], "--trials is 0; it must be at least 1"),
        (["--trials", "-3"], "--trials is -3; it must be at least 1"),
        (["--steps", "-1"], "--steps is -1; it must be at least 0"),
        (["--seed", "-1"], "--seed is -1; it must be at least 0"),
        (["--seed", "4294967296"], "--seed is 4294967296; it must be at most 4294967295"),
        (["--devices", "-1"], "--devices is -1; it must be at least 0"),
        (["--preset", "cub_best"], "--preset is 'cub_best'; there are search spaces for glyphs_simple"),
        (["--preset", "nothing.json"], "--preset is 'nothing.json'"),
        (["--data.root", "{}/none", "--preset", "cub_squeezenet"], "{}/none"),
        (
            ["--train.devices", "-1", "--train.steps", "2", "--train.seed", "3"],
            "--devices is -1; it must be at least 0",
        ),
        (["--model.weights", "{}/none.npz"], "{}/none.npz"),
        (["--workdir", ""], "--workdir is empty"),
        (["--workdir", "{}/file"], "--workdir {}/file cannot be a folder"),
        (["--workdir", "{}/file/below"], "--workdir {}/file/below cannot be a folder"),
        (["--preset", "cub_squeezenet", "--data_root", "{}/none"], "{}/none"),
    ],
)
def test_mistakes_end_in_one_line(words, named, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    words = [
        "--trials",
        "1",
        "--workdir",
        str(tmp_path / "study"),
        *(word.format(tmp_path) for word in words),
    ]
    code, said = run_script(tune.main, words, monkeypatch, capsys)
    assert code == 1
    assert named.format(tmp_path) in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "study").exists()
