"""A finished run that goes on for more steps, and one that ends earlier than it was to."""
# ruff: noqa: F811 (fixtures)

import json
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxml import config as configs
from jaxml.commands.train import parse_train
from jaxml.config import Optim
from jaxml.errors import RunError
from jaxml.training import history, optimizer, run, train
from tests.training.test_run import Stop, StopAt, config, pictures, rows, untrained  # noqa: F401


def until(config, steps, **optim):
    return replace(config, train=replace(config.train, steps=steps), optim=replace(config.optim, **optim))


def lines(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def state(workdir, step):
    opened = run.load(workdir)
    return opened.checkpoints.restore(opened.state, step)[0]


def test_a_constant_schedule_just_goes_on(config, tmp_path, capsys):
    """It is the run of as many steps, bit for bit; only the line that notes it is new."""
    whole, workdir = until(config, 12, schedule="constant"), tmp_path / "a"
    short = until(whole, 6)
    first = train.train(short, workdir)
    assert first["step"] == 6
    before, report = lines(workdir), (workdir / "report.html").read_bytes()
    capsys.readouterr()
    words = parse_train(["--workdir", str(workdir), "--resume", "--train.steps", "12"])
    assert words.config == whole
    second = train.train(words.config, workdir, resume=True)
    said = capsys.readouterr().out
    assert "train.steps was 6 and is 12: from step 6 on the schedule (constant) is that of 12 steps; " in said
    assert "the learning rate is 0.001 there, and was 0.001\n" in said
    assert lines(workdir)[: len(before)] == before
    assert json.loads(lines(workdir)[len(before)]) == {"step": 6, "train_steps": 12}
    train.learn(whole, tmp_path / "b")
    assert [row for row in rows(workdir) if "train_steps" not in row] == rows(tmp_path / "b")
    assert jax.tree.all(jax.tree.map(np.array_equal, state(workdir, 12), state(tmp_path / "b", 12)))
    assert json.loads((workdir / "results.json").read_text()) == second
    assert (workdir / "report.html").read_bytes() != report
    assert configs.load(workdir / "config.json") == whole


@pytest.mark.slow  # a constant schedule goes on in make test
def test_a_cosine_rises_to_that_of_all_steps(config, tmp_path, capsys):
    short = until(config, 6, learning_rate=0.01, warmup_steps=2)
    train.learn(short, tmp_path / "run")
    before = lines(tmp_path / "run")
    longer = until(short, 12)
    with pytest.raises(Stop):
        train.learn(longer, tmp_path / "run", resume=True, callbacks=[StopAt(8)])
    expected = 0.01 * (1 + math.cos(math.pi * 4 / 10)) / 2
    assert f"the learning rate is {expected:g} there, and was 0\n" in capsys.readouterr().out
    train.learn(longer, tmp_path / "run", resume=True)
    found = lines(tmp_path / "run")
    assert found[: len(before)] == before
    assert [row for row in rows(tmp_path / "run") if "train_steps" in row] == [{"step": 6, "train_steps": 12}]
    assert [row["step"] for row in rows(tmp_path / "run") if "loss" in row] == list(range(1, 13))


def test_the_step_after_the_old_end_has_the_learning_rate_that_is_said(config, tmp_path):
    """Adam's first steps move parameters by the learning rate, whatever the gradient; its 7th by about as much."""
    short = until(config, 6, learning_rate=0.01)
    train.learn(short, tmp_path / "run")
    at_end = state(tmp_path / "run", 6)
    with pytest.raises(Stop):
        train.learn(until(short, 6000), tmp_path / "run", resume=True, callbacks=[StopAt(10)])
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), at_end.params, state(tmp_path / "run", 9).params
    )
    assert 0.005 < max(jax.tree.leaves(moved)) < 0.06, "3 steps of a learning rate that is hardly below 0.01"


def test_fewer_steps_than_were_made_are_refused(config, tmp_path):
    workdir = tmp_path / "run"
    untrained(config, workdir, [3, 6])
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(
        RunError, match=r"^--train.steps is 5, but the run in .*run has come to step 6; give 6 or more"
    ):
        train.train(until(config, 5), workdir, resume=True)
    assert (workdir / "config.json").read_bytes() == before
    assert lines(workdir) == [f'{{"step": {i}}}' for i in range(1, 7)]


def test_a_run_may_end_where_it_has_come_to(config, tmp_path):
    with pytest.raises(Stop):
        train.learn(config, tmp_path / "run", callbacks=[StopAt(4)])
    found = train.train(until(config, 3), tmp_path / "run", resume=True)
    assert found["step"] == 3
    assert [row["step"] for row in rows(tmp_path / "run") if "val_nmi" in row] == [3]


def test_a_note_is_made_once_and_after_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    for _ in range(2):
        history.note_steps(path, 3, 8)
    assert history.read(path) == [{"step": 3, "loss": 1.0}, {"step": 3, "train_steps": 8}]


def test_steps_in_one_call_are_still_another_run(config, tmp_path):
    """Its name begins like that of `train.steps`."""
    untrained(config, tmp_path / "run", [3])
    other = replace(config, train=replace(config.train, steps_per_call=3))
    with pytest.raises(RunError, match=r"another run; it differs in train\.steps_per_call: 1 -> 3"):
        train.learn(other, tmp_path / "run", resume=True)


@pytest.mark.parametrize(("step", "old", "new"), [(10, "0.5", "0.5"), (0, "0", "0")])
def test_a_line_on_the_warm_up(step, old, new):
    optim = Optim(learning_rate=0.5, warmup_steps=10, schedule="constant")
    assert optimizer.rescheduled(optim, 20, 40, step).endswith(f"is {new} there, and was {old}")
