"""Records of a run for other programs, read back by these programs themselves where that needs no service."""
# ruff: noqa: F811 (fixtures)

import inspect
import json
import logging
import math
from dataclasses import replace

import mlflow
import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jaxml import config as configs
from jaxml.errors import RunError
from jaxml.training import history, train, writers
from tests.training.test_run import Stop, StopAt, config, pictures  # noqa: F401


def with_writers(config, *names):
    return replace(config, train=replace(config.train, writers=names, log_every=2, steps=8))


def expected(workdir):
    """Points (step, value) by name, of the run's own record and results, under the names that writers give them."""
    points = {}
    for row in history.read(workdir / "metrics.jsonl"):
        for name, value in row.items():
            if name != "step":
                points.setdefault(name.replace("@", "_at_"), []).append((row["step"], value))
    results = json.loads((workdir / "results.json").read_text())
    for name, value in results["test"].items():
        points[f"test_{name}".replace("@", "_at_")] = [(results["step"], value)]
    return points


def assert_same_points(found, workdir):
    wanted = expected(workdir)
    assert {"loss", "grad_norm", "active_share", "images_per_second", "val_nmi", "test_recall_at_1"} < set(
        wanted
    )
    assert found.keys() == wanted.keys()
    for name, points in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        values = zip(found[name], points, strict=True)
        assert all(math.isclose(a[1], b[1], rel_tol=1e-6, abs_tol=1e-9) for a, b in values), name


def test_tensorboard_reads_the_record_of_a_run_that_crashed(config, tmp_path):
    """Steps 4 and later, which come again, are there once."""
    config, workdir = with_writers(config, "tensorboard"), tmp_path / "run"
    with pytest.raises(Stop):
        train.train(config, workdir, callbacks=[StopAt(5)])
    train.train(config, workdir, resume=True)
    events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    scalars = events.Tags()["scalars"]
    assert_same_points({name: [(e.step, e.value) for e in events.Scalars(name)] for name in scalars}, workdir)
    text = events.Tensors("config/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert configs.from_dict(json.loads(text.removeprefix("```json").removesuffix("```"))) == config


@pytest.fixture
def tracking(tmp_path, monkeypatch):
    """A client of MLflow's data base in a file."""
    address = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return mlflow.MlflowClient(address)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
def test_mlflow_has_one_run_that_goes_on(config, tracking, tmp_path):
    config, workdir = with_writers(config, "mlflow"), tmp_path / "run"
    with pytest.raises(Stop):
        train.learn(config, workdir, callbacks=[StopAt(4)])
    shorter = replace(config, train=replace(config.train, steps=6))
    train.train(shorter, workdir, resume=True)
    (found,) = tracking.search_runs(["0"])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params["train.steps"] == "8", "with which it began"
    assert found.data.params["loss.name"] == "triplet"
    points = {
        name: sorted({(m.step, m.value) for m in tracking.get_metric_history(found.info.run_id, name)})
        for name in found.data.metrics
    }
    wanted = expected(workdir)
    assert points["val_nmi"] == wanted["val_nmi"]
    assert points["loss"] == wanted["loss"]
    assert points["test_recall_at_1"] == wanted["test_recall_at_1"]


REAL_INIT = inspect.signature(wandb.init)


class Stub:
    """What `wandb.init` returns; its methods take what those of the real one take."""

    def __init__(self):
        self.begun, self.rows, self.axes, self.closed = [], [], [], 0

    def init(self, **given):
        REAL_INIT.bind(**given)
        self.begun.append(given)
        return self

    def define_metric(self, *given, **named):
        inspect.signature(wandb.Run.define_metric).bind(self, *given, **named)
        self.axes.append((given, named))

    def log(self, *given):
        inspect.signature(wandb.Run.log).bind(self, *given)
        self.rows.append(*given)

    def finish(self):
        inspect.signature(wandb.Run.finish).bind(self)
        self.closed += 1


def test_wandb_gets_everything_in_one_run(config, tmp_path, monkeypatch):
    stub = Stub()
    monkeypatch.setattr(wandb, "init", lambda **given: stub.init(**given))
    config, workdir = with_writers(config, "wandb"), tmp_path / "run"
    train.train(config, workdir)
    points = {}
    for row in stub.rows:
        for name, value in row.items():
            if name != "step":
                points.setdefault(name, []).append((row["step"], value))
    assert_same_points(points, workdir)
    # Once for the steps, and once for the results.
    assert (len(stub.begun), stub.closed) == (2, 2)
    assert {given["id"] for given in stub.begun} == {
        json.loads((workdir / "writers.json").read_text())["wandb"]
    }
    assert stub.begun[0]["config"] == configs.to_dict(config)
    assert {given["resume"] for given in stub.begun} == {"allow"}
    assert stub.axes[0] == (("*",), {"step_metric": "step"})


def test_a_writer_that_fails_later_costs_no_step(config, tmp_path, monkeypatch, caplog):
    class Failing:
        def __init__(self, run, first):
            self.written = 0

        def write(self, step, values):
            self.written += 1
            if step == 4:
                raise OSError("no\nroute")

        def close(self):
            raise AssertionError("it was left out")

    monkeypatch.setitem(writers.WRITERS, "wandb", writers.Kind("wandb", Failing))
    with caplog.at_level(logging.WARNING, writers.__name__):
        train.learn(with_writers(config, "wandb"), tmp_path / "run")
    assert [r.getMessage() for r in caplog.records if r.name == writers.__name__] == [
        "--train.writers wandb: OSError: no route; nothing more is written there"
    ]
    assert history.read(tmp_path / "run/metrics.jsonl")[-1]["step"] == 8


def test_a_writer_that_cannot_begin_is_an_error_before_the_first_step(config, tmp_path, monkeypatch):
    def refuse(run, first):
        raise ConnectionError("nobody\nis there")

    monkeypatch.setitem(writers.WRITERS, "mlflow", writers.Kind("mlflow", refuse))
    asked = with_writers(config, "tensorboard", "mlflow")
    with pytest.raises(RunError, match=r"^--train\.writers mlflow: ConnectionError: nobody is there$"):
        train.learn(asked, tmp_path / "run")
    # The directory is used again, with nothing of the first start in it.
    train.learn(with_writers(config), tmp_path / "run")
    assert not (tmp_path / "run/tensorboard").exists()


@pytest.mark.parametrize("name", writers.WRITERS)
def test_a_missing_package_is_named_before_anything_is_made(config, tmp_path, monkeypatch, name):
    monkeypatch.setitem(writers.WRITERS, name, writers.Kind("no_such_module", None))
    expected = rf"^--train\.writers {name} needs no_such_module, .*: `pip install jaxml\[{name}\]`$"
    with pytest.raises(ImportError, match=expected):
        train.train(with_writers(config, name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_choice_of_the_option_has_a_kind():
    assert set(configs.options()["train.writers"]["items"]["enum"]) == set(writers.WRITERS)
