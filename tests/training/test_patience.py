"""Early stopping: where a run ends, that it is finished then, and that one that was stopped ends at the same step."""
# ruff: noqa: F811 (fixtures)

import json
from dataclasses import replace

import pytest

from jaxml.training import loop, patience, train
from tests.training.test_run import Stop, StopAt, config, pictures, rows  # noqa: F401

NMI = {2: 0.3, 4: 0.6, 6: 0.5, 8: 0.6, 10: 0.7, 12: 0.7}
"""By step, what validations find: step 8 is as good as step 4, which is not better."""


@pytest.fixture
def judged(config, monkeypatch):
    """A configuration whose validations find `NMI`, whatever the network."""
    counts = []

    def validate(embeddings, labels):
        counts.append(len(embeddings))
        return {"nmi": found.pop(0), "f1": 0.5, "recall@1": 0.5}

    found = list(NMI.values())
    monkeypatch.setattr(loop, "validate", validate)
    train = replace(config.train, eval_every=2, save_every=3)
    return replace(config, train=train), found


def patient(config, count):
    return replace(config, train=replace(config.train, patience=count))


def validated(workdir):
    return [row["step"] for row in rows(workdir) if "val_nmi" in row]


@pytest.mark.parametrize(
    ("count", "last"),
    [(1, 6), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 8), (3, 12))), (0, 12)],
)
def test_a_run_ends_after_so_many_validations_without_a_better_one(judged, tmp_path, capsys, count, last):
    config, _ = judged
    found = train.train(patient(config, count), tmp_path / "run")
    said = capsys.readouterr().out
    assert validated(tmp_path / "run") == list(range(2, last + 1, 2))
    assert [row["step"] for row in rows(tmp_path / "run") if "loss" in row] == list(range(1, last + 1))
    line = f"ended at step {last}: none of {count} validations since step 4 has a better NMI than its 0.6000"
    assert (line in said) == (last < 12)
    # Of equal scores the newest checkpoint is the best one.
    best = {6: 4, 8: 8, 12: 12}[last]
    assert found["step"] == best
    assert json.loads((tmp_path / "run/results.json").read_text()) == found
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.parametrize("stop", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 8))])
def test_a_stopped_run_ends_where_it_would_have_ended(judged, tmp_path, stop):
    """Stopped before or after a validation, whose score comes again where its step was not saved."""
    config, found = judged
    scores = list(NMI.values())
    with pytest.raises(Stop):
        train.learn(patient(config, 2), tmp_path / "run", callbacks=[StopAt(stop)])
    saved = max(step for step in (0, 2, 3, 4, 6) if step < stop)
    found[:] = scores[saved // 2 :]
    train.train(patient(config, 2), tmp_path / "run", resume=True)
    assert validated(tmp_path / "run") == [2, 4, 6, 8]


def test_a_run_that_has_ended_goes_on_with_more_patience_only(judged, tmp_path, capsys):
    config, found = judged
    train.learn(patient(config, 1), tmp_path / "run")
    assert len(found) == 3
    train.train(patient(config, 1), tmp_path / "run", resume=True)
    assert "ended at step 6" in capsys.readouterr().out
    assert len(found) == 3, "it went on"
    train.train(patient(config, 0), tmp_path / "run", resume=True)
    assert validated(tmp_path / "run") == [2, 4, 6, 8, 10, 12]


def test_only_validations_up_to_the_step_count():
    rows = [{"step": 2, "val_nmi": 0.9}, {"step": 3, "loss": 1.0}, {"step": 4, "val_nmi": 0.1}]
    assert patience.exhausted(rows, 1, 3) == ""
    assert patience.exhausted(rows, 1, 4)
    assert patience.exhausted([], 1, 4) == patience.exhausted(rows[1:2], 1, 4) == ""
