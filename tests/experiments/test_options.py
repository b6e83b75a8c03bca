"""The comparison of options: each trial is a configuration that can be trained, and none sees a test class."""

import pytest

from experiments.paper import options
from jaxml.data.splits import split


@pytest.mark.parametrize("name", options.TRIALS)
def test_every_trial(name):
    trial = options.TRIALS[name]
    assert not trial.of or not options.TRIALS[trial.of].of
    config = options.configuration(trial, seed=3, data_root="birds", teacher="runs/teacher")
    assert (config.train.seed, config.train.steps, config.distill.teacher) == (3, 200, "runs/teacher")
    parts = split(config.data.split, options.CLASSES)
    train, val, test = (parts[part] for part in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (80, 20, 0)
    assert max(*train, *val) == 99


def test_the_table_holds_differences_from_the_first_trial():
    line = {
        "trial": "base",
        "title": "the preset",
        "seeds": (0, 1),
        "nmi": (0.5, 0.01),
        "f1": (0.25, 0.0),
        "recall@1": (0.75, 0.0),
    }
    better = {**line, "trial": "gem", "title": "pooling", "nmi": (0.625, 0.0)}
    rows = options.table([line, better]).splitlines()
    assert (
        rows[2]
        == "| the preset (`base`) | 0.500 ± 0.010 | 0.250 ± 0.000 | 0.750 ± 0.000 | +0.000, +0.000, +0.000 |"
    )
    assert rows[3].endswith("| 0.625 ± 0.000 | 0.250 ± 0.000 | 0.750 ± 0.000 | +0.125, +0.000, +0.000 |")


def test_a_single_seed_has_no_deviation():
    line = {"trial": "base", "title": "the preset", "seeds": [0], "nmi": (0.5, 0.0), "f1": (0.25, 0.0)}
    (row,) = options.table([{**line, "recall@1": (0.75, 0.0)}]).splitlines()[2:]
    assert row == "| the preset (`base`) | 0.500 | 0.250 | 0.750 | +0.000, +0.000, +0.000 |"
