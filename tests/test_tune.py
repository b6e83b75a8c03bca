"""Tuning: it resumes, writes a preset, and has no way to read a test class."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_run import config, pictures  # noqa: F401

from jaxml import config as configs
from jaxml import fit, history, run
from jaxml.cli import parse_train
from jaxml.data import images, resident
from jaxml.presets import PRESETS, SPACES

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
import tune

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
        found = tune.changed(PRESETS[name], options)
        run.training.loss_function(found)


def test_study_goes_on_after_a_stop_and_never_sees_a_test_class(small, tmp_path, monkeypatch):
    seen, load, collect = [], resident.load, fit._Progress.collect

    def recorded(index, data):
        seen.append(index)
        return load(index, data)

    def stopping(self, start, *rest):
        collect(self, start, *rest)
        if start == 2 and (tmp_path / "trial_001").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(resident, "load", recorded)
    monkeypatch.setattr(fit._Progress, "collect", stopping)
    with pytest.raises(KeyboardInterrupt):
        tune.tune(small, SPACE, tmp_path, trials=2)
    assert not (tmp_path / "trial_002").exists()
    monkeypatch.setattr(fit._Progress, "collect", collect)
    best = tune.tune(small, SPACE, tmp_path, trials=2)

    folders = sorted(path.name for path in tmp_path.glob("trial_*"))
    assert folders == ["trial_000", "trial_001"], "the trial that was stopped was not the one that went on"
    records = [history.read(tmp_path / name / "metrics.jsonl") for name in folders]
    assert [len([row for row in rows if "loss" in row]) for rows in records] == [4, 4]
    scores = [max(row.get("val_nmi", 0) for row in rows) for rows in records]
    assert best == max(scores)

    winner = configs.load(tmp_path / folders[int(np.argmax(scores))] / "config.json")
    chosen = parse_train(["--preset", str(tmp_path / "best.json")], "").config
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
    assert len(opened.resident) == len(opened.index.labels) == 7 * 8
    with pytest.raises(ValueError, match="no test classes"):
        opened.rows("test")
