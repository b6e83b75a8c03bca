"""Runs whose batches hold several classes of each category."""
# ruff: noqa: F811 (fixtures)

import numpy as np
import pytest

from jaxml import config as configs
from jaxml.data.categories import named
from jaxml.data.sampling import class_table, sample
from jaxml.training import inputs, train
from tests.training.test_run import Stop, StopAt, assert_same_run, config, pictures  # noqa: F401

CATEGORY = "class([01])?.*"  # 0, 1, and none of both for classes 2, 3 and 4


@pytest.mark.parametrize("source", ["resident", pytest.param("tf_data", marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_with_the_same_batches(config, tmp_path, monkeypatch, source):
    grouped = {"data.category": CATEGORY, "data.classes_per_category": 2, "data.input": source}
    config = configs.override(config, grouped)
    tables, made = [], inputs.sampling.class_table

    def kept(*args):
        tables.append(made(*args))
        return tables[-1]

    monkeypatch.setattr(inputs.sampling, "class_table", kept)
    train.train(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train.train(config, tmp_path / "stopped", callbacks=[StopAt(8)])
    train.train(config, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    for table in tables:
        assert table.categories.tolist() == [1, 2, 0, 0, 0]


def test_a_class_without_a_category_is_named(config, tmp_path):
    wrong = configs.override(config, {"data.category": "class([0-3])"})
    with pytest.raises(
        ValueError, match=r"^--data\.category 'class\(\[0-3\]\)' does not match class class4; it must"
    ):
        train.train(wrong, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_given_triplets_are_refused():
    values = {"train.mode": "input_triplets", "data.classes_per_batch": 3, "data.category": "(.)"}
    with pytest.raises(ValueError, match=r"^--data\.category needs --train\.mode batch"):
        configs.override(configs.Config(), values)


def test_a_batch_of_all_categories():
    names = [f"class{c}" for c in range(5)]
    table = class_table(np.repeat(np.arange(5), 8), np.arange(5), named(CATEGORY, names))
    for step in range(20):
        classes = np.asarray(sample(0, step, table, 4, 2, 2)[1])[::2]
        assert sorted(classes)[:2] == [0, 1], "each the only one of its category"
        assert len({*classes}) == 4
