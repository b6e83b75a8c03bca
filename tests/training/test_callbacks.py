"""Callbacks: what they are told, in which order, and that a run ends cleanly whatever they do."""

from dataclasses import replace

import pytest

from jaxml.errors import Preempted
from jaxml.training import history, train
from jaxml.training.callbacks import Callback
from tests.training.test_run import config, pictures  # noqa: F401


class Notes(Callback):
    """Records every call."""

    def __init__(self):
        self.calls, self.metrics = [], {}

    def on_begin(self, run):
        self.calls.append(("begin", int(run.state.step)))

    def on_step(self, run, step, metrics):
        self.calls.append(("step", step))
        assert int(run.state.step) >= step
        self.metrics[step] = metrics

    def on_validation(self, run, step, metrics):
        self.calls.append(("validation", step))
        self.metrics["validation", step] = metrics

    def on_checkpoint(self, run, step):
        assert run.checkpoints.steps()[-1] == step
        self.calls.append(("checkpoint", step))

    def on_end(self, run):
        self.calls.append(("end", int(run.state.step)))


def steps(first, last):
    return [("step", step) for step in range(first, last + 1)]


def test_every_callback_is_told_of_everything_in_order(config, tmp_path):  # noqa: F811
    one, other = Notes(), Notes()
    train.train(config, tmp_path / "run", callbacks=[one, other])
    assert one.calls == [
        *[("begin", 0), *steps(1, 3), ("checkpoint", 3), *steps(4, 6), ("validation", 6), ("checkpoint", 6)],
        *[
            *steps(7, 9),
            ("checkpoint", 9),
            *steps(10, 12),
            ("validation", 12),
            ("checkpoint", 12),
            ("end", 12),
        ],
    ]
    assert other.calls == one.calls
    rows = history.read(tmp_path / "run/metrics.jsonl")
    assert {row["step"]: row["loss"] for row in rows if "loss" in row} == {
        step: one.metrics[step]["loss"] for step in range(1, 13)
    }
    recorded = next(row for row in rows if row["step"] == 6 and "val_nmi" in row)
    assert recorded == {"step": 6, **{f"val_{k}": v for k, v in one.metrics["validation", 6].items()}}


def test_several_steps_a_call_are_told_one_by_one(config, tmp_path):  # noqa: F811
    notes = Notes()
    train.learn(
        replace(config, train=replace(config.train, steps_per_call=3)), tmp_path / "run", callbacks=[notes]
    )
    assert [call for call in notes.calls if call[0] == "step"] == steps(1, 12)


def test_a_callback_may_stop_the_run_and_another_process_goes_on(config, tmp_path):  # noqa: F811
    class Enough(Callback):
        def on_step(self, run, step, metrics):
            run.signals.received = step == 4

    notes = Notes()
    with pytest.raises(Preempted, match="step 4 is saved"):
        train.train(config, tmp_path / "run", callbacks=[notes, Enough()])
    assert notes.calls[-2:] == [("checkpoint", 4), ("end", 4)]
    again = Notes()
    train.train(config, tmp_path / "run", resume=True, callbacks=[again])
    assert again.calls[:2] == [("begin", 4), ("step", 5)]


def test_an_error_of_a_callback_ends_the_run_and_all_are_told(config, tmp_path):  # noqa: F811
    class Broken(Callback):
        def on_validation(self, run, step, metrics):
            raise ZeroDivisionError

    notes = Notes()
    with pytest.raises(ZeroDivisionError):
        train.train(config, tmp_path / "run", callbacks=[Broken(), notes])
    assert notes.calls[-1] == ("end", 6)
    assert ("validation", 6) not in notes.calls
