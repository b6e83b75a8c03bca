"""A whole run on a small folder of pictures: results, resuming, crashes, and mistakes of users."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxml import config as configs
from jaxml.config import Config, Data, Eval, Model, Optim, Train
from jaxml.errors import CheckpointError, Interrupted, Preempted, RunError
from jaxml.training import health, history, provenance, results, run, train
from jaxml.training.callbacks import Callback
from jaxml.training.checkpoint import Checkpoints

STEPS = 12


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Ten classes of eight pictures; each class has its own colours."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for c in range(10):
        (root / f"class{c}").mkdir()
        base = rng.uniform(0, 255, (4, 4, 3)).repeat(6, 0).repeat(6, 1)
        for i in range(8):
            pixels = np.clip(base + rng.normal(0, 40, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"class{c}" / f"{i}.png")
    return root


@pytest.fixture
def config(pictures, tmp_path):
    return small(pictures, tmp_path / "cache")


def small(pictures, cache):
    data = Data(
        source="folder",
        root=str(pictures),
        split="0-4/5-6/7-9",
        stored_size=24,
        size=20,
        classes_per_batch=4,
        images_per_class=2,
        cache=str(cache),
    )
    return Config(
        data=data,
        model=Model(feature_size=8),
        optim=Optim(schedule="cosine"),
        train=Train(steps=STEPS, log_every=1, eval_every=6, save_every=3, devices=1),
        eval=Eval(batch_size=16, kmeans_seeds=2),
    )


def final_state(workdir):
    opened = run.load(workdir)
    state, _ = opened.checkpoints.restore(opened.state, STEPS)
    return state


def rows(workdir):
    """The record without columns that hold times."""
    found = history.read(Path(workdir) / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in found]


def assert_same_run(a, b):
    assert rows(a) == rows(b)
    assert jax.tree.all(jax.tree.map(np.array_equal, final_state(a), final_state(b)))
    results = [json.loads((Path(w) / "results.json").read_text()) for w in (a, b)]
    assert results[0] == results[1]


def test_directory_holds_everything(config, tmp_path):
    found = train.train(config, tmp_path / "run")
    assert configs.load(tmp_path / "run" / "config.json") == config
    assert [row["step"] for row in rows(tmp_path / "run") if "loss" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows(tmp_path / "run") if "val_nmi" in row] == [6, 12]
    assert 0 <= found["test"]["nmi"] <= 1
    assert set(found["baselines"]) == {"raw pixels (8 x 8)"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "class7" in page
    assert "class0" not in page, "a training class among the test classes"
    # The directory alone is enough to evaluate.
    opened = run.load(tmp_path / "run")
    test_rows = opened.images.rows("test")
    again = results.score(opened, opened.embed(test_rows), test_rows)
    assert again == pytest.approx(found["test"])


class Stop(Exception):
    """The exception that `StopAt` raises."""


class StopAt(Callback):
    """Ends the run in the middle of a step, before it is saved."""

    def __init__(self, step, error=Stop, when=lambda: True):
        self.step, self.error, self.when = step, error, when

    def on_step(self, run, step, metrics):
        if step == self.step and self.when():
            raise self.error


@pytest.mark.parametrize("source", ["resident", pytest.param("tf_data", marks=pytest.mark.slow)])
def test_stopped_anywhere_and_resumed_is_the_same_run(config, tmp_path, source):
    """Crashes between a step and its save included: what was not saved is done again."""
    config = replace(config, data=replace(config.data, input=source))
    train.train(config, tmp_path / "whole")
    for attempt, stop in enumerate([1, 6, 11]):
        with pytest.raises(Stop):
            train.train(config, tmp_path / "stopped", resume=attempt > 0, callbacks=[StopAt(stop)])
    train.train(config, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


# One CPU device; compiled code is shared with the other processes.
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}


def train_command(workdir, *words):
    return [sys.executable, "-m", "jaxml", "train", "--workdir", str(workdir), *words]


def test_a_directory_with_a_run_is_not_overwritten(config, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    configs.save(workdir / "config.json", config)
    with pytest.raises(RunError, match="--resume"):
        train.train(config, workdir)
    other = replace(config, optim=replace(config.optim, learning_rate=0.5))
    with pytest.raises(RunError, match=r"optim.learning_rate: 0.001 -> 0.5"):
        train.train(other, workdir, resume=True)
    assert configs.load(workdir / "config.json") == config


def test_a_loss_that_is_no_number_stops_the_run(config, tmp_path):
    config = replace(config, optim=Optim(learning_rate=1e30), model=replace(config.model, normalize=False))
    named = r"grad_norm.* \(gradient of backbone/.* and \d+ more\) not finite at step 2"
    with pytest.raises(RunError, match=named):
        train.train(config, tmp_path / "run")
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == []


def untrained(config, workdir, steps):
    """The directory of a run that has saved these steps, without the work of training."""
    opened = run.open_run(config, workdir)
    configs.save(workdir / "config.json", config)
    for step in steps:
        meta = provenance.meta(config, opened.pictures)
        opened.checkpoints.save(step, opened.state._replace(step=np.int32(step)), score=None, meta=meta)
    opened.pictures.save(workdir)
    (workdir / "metrics.jsonl").write_text("".join(f'{{"step": {i + 1}}}\n' for i in range(max(steps))))


def test_a_run_that_has_lost_its_checkpoints_does_not_start_over(config, tmp_path):
    workdir = tmp_path / "run"
    untrained(config, workdir, [3, 6])
    for path in (workdir / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises((RunError, CheckpointError), match="no sound checkpoint"):
            train.train(config, workdir, resume=True)
    assert sorted(path.name for path in (workdir / "damaged").iterdir()) == ["3", "6"]
    shutil.rmtree(workdir / "damaged")
    with pytest.raises(RunError, match="has come to step 6"):
        train.train(config, workdir, resume=True)


def test_a_checkpoint_of_another_run_is_refused_with_the_differences(config, tmp_path):
    other = replace(config, model=replace(config.model, feature_size=16))
    untrained(other, tmp_path / "run", [3])
    configs.save(tmp_path / "run" / "config.json", config)
    differs = r"checkpoint 3 is of another run; it differs in model.feature_size: 16 -> 8"
    with pytest.raises(RunError, match=differs):
        train.train(config, tmp_path / "run", resume=True)


def test_a_validation_that_sigterm_cut_off_is_made_up_for(config, tmp_path, monkeypatch):
    train.train(config, tmp_path / "whole")
    calls = []

    def terminated(embeddings, what):
        calls.append(what)
        if len(calls) in (1, 3):  # at step 6, and after that is made up for, at step 12
            os.kill(os.getpid(), signal.SIGTERM)
            raise Interrupted

    monkeypatch.setattr(health, "warn_collapsed", terminated)
    for step, validated in ((6, []), (12, [6])):
        with pytest.raises(Preempted, match=f"step {step} is saved"):
            train.train(config, tmp_path / "stopped", resume=step > 6)
        assert [row["step"] for row in rows(tmp_path / "stopped") if "val_nmi" in row] == validated
    train.train(config, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_modes_follow_the_umask(config, tmp_path):
    before = os.umask(0o022)
    try:
        train.train(config, tmp_path / "run")
    finally:
        os.umask(before)
    for path in (tmp_path / "run").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_a_ring_takes_no_more_images_of_a_class_than_neighbours_hold(config, tmp_path):
    config = configs.override(
        config,
        {
            "loss.name": "triplet",
            "loss.options": (("ring", True),),
            "data.classes_per_batch": 2,
            "data.images_per_class": 8,
            "train.devices": 4,
        },
    )
    with pytest.raises(RunError, match=r"takes at most 5 images .* 4 devices .* 16, but .*_per_class is 8"):
        train.train(config, tmp_path / "run")


def test_scoring_needs_no_batch_that_divides_among_the_devices(config, tmp_path):
    config = replace(config, data=replace(config.data, classes_per_batch=3))
    untrained(config, tmp_path / "run", [3])
    assert len(run.load(tmp_path / "run").devices) == 4
    with pytest.raises(RunError, match="the batch of 6 cannot be divided among 4 devices"):
        train.train(replace(config, train=replace(config.train, devices=0)), tmp_path / "run", resume=True)


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_a_signal_in_the_steps_saves_and_says_how_to_go_on(config, tmp_path, number):
    class Signal(Callback):
        def on_step(self, run, step, metrics):
            if step == 5:
                os.kill(os.getpid(), number)

    name = "Ctrl-C \\(SIGINT\\)" if number == signal.SIGINT else number.name
    with pytest.raises(Preempted, match=f"stopped by {name}; step [56] is saved, continue with --resume"):
        train.train(config, tmp_path / "run", callbacks=[Signal()])
    assert run.load(tmp_path / "run").checkpoints.steps()[-1] in (5, 6)


def test_a_record_with_a_damaged_line_is_not_cut_off_there(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3')
    assert history.read(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"stop": 2}\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is damaged"):
        history.read(path)
    for damaged in ('["step"]', '{"step": 2, "loss": "x"}', '{"step": 1e9}', "[" * 100_000, '{"step": -1}'):
        path.write_text(f'{{"step": 1}}\n{damaged}\n{{"step": 3}}\n')
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is damaged"):
            history.read(path)


def test_a_damaged_configuration_is_named(config, tmp_path):
    configs.save(tmp_path / "config.json", config)
    (tmp_path / "config.json").write_bytes((tmp_path / "config.json").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"config\.json is no JSON file"):
        configs.load(tmp_path / "config.json")


def test_evaluate_runs_on_any_number_of_devices(config, tmp_path):
    """Only training divides its batch of eight: three devices can evaluate, and find the same."""
    untrained(config, tmp_path / "run", [3])
    script = [sys.executable, "-m", "jaxml", "evaluate", "--workdir", str(tmp_path / "run")]
    printed = []
    for count in (1, 3):
        environment = {**ENVIRONMENT, "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        printed.append(done.stdout)
    assert "24 images of 3 test classes" in printed[0]
    values = [[float(x) for x in re.findall(r" (\d\.\d{4})", text)] for text in printed]
    assert len(values[0]) > 10
    np.testing.assert_allclose(*values, atol=2e-4)
    with pytest.raises(RunError, match=r"batch of 8 cannot be divided among 3 devices.*--train\.devices"):
        train.learn(replace(config, train=replace(config.train, devices=3)), tmp_path / "other")


def test_scripts_answer_mistakes_in_one_line(config, tmp_path):
    cases = [
        (["--data.source", "cub", "--data.root", str(tmp_path / "none")], "none"),
        (["--data.split", "0-59/60-79/80-500"], "500"),
        (
            ["--model.backbone", "squeezenet1_1", "--model.weights", str(tmp_path / "w.safetensors")],
            "w.safetensors",
        ),
        (["--loss.name", "tripletti"], "triplet"),
        (["--train.devices", "99"], "99"),
    ]
    for i, (words, named) in enumerate(cases):
        words = ["--data.cache", str(tmp_path / "cache"), *words]
        command = train_command(tmp_path / f"run{i}", *words)
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr[-2000:]
        assert "Traceback" not in done.stderr
        assert named in done.stderr.splitlines()[-1]
