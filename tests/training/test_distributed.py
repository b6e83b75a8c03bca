"""Two processes of two devices each are one run: the same losses, one record, one set of checkpoints."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxml import config as configs
from jaxml import distributed
from jaxml.config import Config, Data, Eval, Model, Optim, Train, Triplets
from jaxml.training import history, run, train
from tests import processes

STEPS = 20


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Nine classes of eight pictures; each class has its own colours."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for c in range(9):
        (root / f"class{c}").mkdir()
        base = rng.uniform(0, 255, (4, 4, 3)).repeat(6, 0).repeat(6, 1)
        for i in range(8):
            pixels = np.clip(base + rng.normal(0, 40, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"class{c}" / f"{i}.png")
    cache = str(tmp_path_factory.mktemp("cache"))
    look = {"source": "folder", "root": str(root), "split": "0-4/5-6/7-8", "stored_size": 24, "size": 20}
    return Config(
        data=Data(**look, classes_per_batch=4, images_per_class=4, cache=cache),
        model=Model(feature_size=8),
        # A bias that BatchNorm cancels has a gradient of 0 up to rounding, which Adam would scale up to a whole step.
        optim=Optim(groups=(("backbone/(bn0|conv1|conv2|fc1)/bias", 0.0),)),
        train=Train(steps=STEPS, log_every=1, eval_every=10, save_every=10),
        eval=Eval(batch_size=16, kmeans_seeds=2),
    )


def start(config, workdir, *words):
    """Two processes that train together; the second is given a directory of its own, which must not appear."""
    workdir.mkdir()
    configs.save(workdir / "config.json", config)
    train_there = ["-m", "jaxml", "train", "--distributed", "--resume", "--workdir"]
    second = workdir.with_name(f"{workdir.name}-second")
    return processes.start(*([*train_there, str(place), *words] for place in (workdir, second)))


def losses(workdir):
    return np.array([row["loss"] for row in history.read(workdir / "metrics.jsonl") if "loss" in row])


def test_without_other_processes_everything_is_this_ones():
    rows = np.arange(5)
    assert distributed.is_main()
    np.testing.assert_array_equal(distributed.share(rows), rows)
    np.testing.assert_array_equal(distributed.gather(rows, 5), rows)
    assert distributed.everyones(["a", "b"]) == ["a", "b"]
    with pytest.raises(ZeroDivisionError):
        distributed.on_main(lambda: 1 / 0)


def test_a_share_for_every_process(monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 3)
    shares = []
    for i in range(3):
        monkeypatch.setattr(distributed.jax, "process_index", lambda i=i: i)
        shares.append(distributed.share(np.arange(7)).tolist())
    assert shares == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]


@pytest.mark.parametrize("flags", ["", "--xla_cpu_collective_timeout_seconds=60"])
def test_processes_wait_long_unless_told_otherwise(flags, monkeypatch):
    """XLA's own limit is less than scoring many images takes, for which one process is waited for."""
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(distributed.jax.config, "update", lambda *_: None)
    monkeypatch.setattr(distributed.jax.distributed, "initialize", lambda **_: None)
    monkeypatch.setattr(distributed, "_connect", lambda: None)
    distributed.start()
    seconds = 60 if flags else distributed.LONGEST_WAIT
    assert os.environ["XLA_FLAGS"].split() == [f"--xla_cpu_collective_timeout_seconds={seconds}"]


LATE = """
import sys, time
import jax, numpy as np
from jaxml import distributed
distributed.start()
print(distributed.on_main(lambda: [time.sleep(35), "done"][1]), file=sys.stderr)
time.sleep(35 * distributed.is_main())
print(jax.pmap(lambda x: jax.lax.psum(x, "all"), "all")(np.ones(2))[0], file=sys.stderr)
"""


@pytest.mark.slow
def test_the_first_exchange_waits_for_a_process_that_is_late():
    """Unless they are connected by then, it fails after 30 seconds."""
    codes, logs = processes.finish(processes.start(["-c", LATE], ["-c", LATE]))
    assert codes == [0, 0], logs
    for log in logs:
        assert "done" in log
        assert "4.0" in log


def streamed(config):
    return replace(config, data=replace(config.data, input="tf_data"))


def from_lists(config):
    """Triplets at the input; the list of a stretch is drawn by the embeddings of all training images."""
    return replace(
        config,
        data=replace(config.data, classes_per_batch=3, images_per_class=8),
        train=replace(config.train, mode="input_triplets"),
        triplets=Triplets(sampling="hardest", regenerate_every=7),
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(replace, id="resident"),
        pytest.param(streamed, marks=pytest.mark.slow),
        pytest.param(from_lists, marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one_run_that_one_device_resumes(config, tmp_path, change):
    config = change(config)
    single = replace(config, train=replace(config.train, devices=1))
    results = train.train(single, tmp_path / "single")
    together = tmp_path / "together"
    codes, logs = processes.finish(start(config, together))
    assert codes == [0, 0], logs
    assert "clusters of unseen classes" in logs[0]
    assert "clusters of unseen classes" not in logs[1]
    assert not (tmp_path / "together-second").exists()
    assert len(losses(together)) == STEPS
    assert np.ptp(losses(together)) > 0
    np.testing.assert_allclose(losses(together), losses(tmp_path / "single"), rtol=1e-5)
    found = json.loads((together / "results.json").read_text())
    assert found["test"] == pytest.approx(results["test"])
    assert (found["baselines"], found["kmeans"]) == (results["baselines"], results["kmeans"])

    if config.data.input != "tf_data":
        # Of 40 images to learn from, 16 of validation and 16 of test, each process has decoded its half.
        kept = [len(np.load(file, mmap_mode="r")) for file in Path(config.data.cache).glob("*/images.npy")]
        assert sorted(kept) == [36, 36, 72]

    # One device goes on from what the two processes saved, as the single run does.
    for workdir in (together, tmp_path / "single"):
        shutil.rmtree(workdir / "checkpoints" / str(STEPS))
        train.train(single, workdir, resume=True)
    np.testing.assert_allclose(losses(together), losses(tmp_path / "single"), rtol=1e-5)
    assert len(losses(together)) == STEPS


@pytest.mark.slow
@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_to_one_process_saves_and_stops_all(config, tmp_path, number):
    endless = replace(config.train, steps=100_000, eval_every=100_000, save_every=100_000)
    workdir = tmp_path / "run"
    started = start(replace(config, train=endless), workdir)
    while not history.read(workdir / "metrics.jsonl"):
        assert started[0].poll() is None
        time.sleep(0.1)
    started[1].send_signal(number)
    codes, logs = processes.finish(started)
    assert codes == [75, 75], logs
    assert all("--resume" in log.splitlines()[-1] for log in logs)
    assert run.load(workdir).checkpoints.steps() == [history.read(workdir / "metrics.jsonl")[-1]["step"]]


def test_an_error_of_the_first_process_is_one_line_of_all(config, tmp_path):
    workdir = tmp_path / "run"
    codes, logs = processes.finish(start(config, workdir, "--optim.learning_rate", "0.5"))
    assert codes == [1, 1], logs
    for log in logs:
        assert "Traceback" not in log
        assert "optim.learning_rate: 0.001 -> 0.5" in log
