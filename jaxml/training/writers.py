"""Optional records of a run for other programs: TensorBoard, Weights & Biases, MLflow.

Each writer gets the configuration, what `metrics.jsonl` holds, and at the end the scores in `results.json`. A service's
own environment variables, such as WANDB_PROJECT and MLFLOW_TRACKING_URI, say where it is and what the project or the
experiment is called. `writers.json` in the run's directory keeps the names under which it goes on there when it
resumes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from jaxml import config as configs
from jaxml.config import Config
from jaxml.errors import RunError
from jaxml.files import parse_json, printable, write_json
from jaxml.training.callbacks import Callback
from jaxml.training.run import Run

log = logging.getLogger(__name__)


class Writer(Protocol):
    """An open record; values are finite, and their names hold letters, digits and underscores only."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add values of a step."""

    def close(self) -> None:
        """Bring everything where it belongs."""


class TensorBoard:
    """Event files in the run's directory `tensorboard`."""

    def __init__(self, run: Run, first: int | None):
        from tensorboardX import SummaryWriter

        # Readers then drop what an earlier process wrote of the steps that come again.
        again = first + 1 if first else None
        self._writer = SummaryWriter(str(run.workdir / "tensorboard"), purge_step=again)
        text = json.dumps(configs.to_dict(run.config), indent=2)
        self._writer.add_text("config", f"```json\n{text}\n```", first or 0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a scalar for each value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write the file to its end."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, with `step` as the axis of all curves."""

    def __init__(self, run: Run, first: int | None):
        import wandb

        self._run = wandb.init(
            id=_kept(run.workdir, "wandb") or _keep(run.workdir, "wandb", uuid4().hex),
            resume="allow",
            name=run.workdir.name,
            dir=str(run.workdir),
            config=configs.to_dict(run.config),
            allow_val_change=True,
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log one row. Its own count of steps only rises, so that it would drop those that come again."""
        self._run.log({"step": step, **values})

    def close(self) -> None:
        """Upload what is left."""
        self._run.finish()


class MLflow:
    """A run of MLflow, whose parameters are the options with which it began, for MLflow lets nobody change them."""

    def __init__(self, run: Run, first: int | None):
        import mlflow

        known = _kept(run.workdir, "mlflow")
        self._run_id = mlflow.start_run(run_id=known, run_name=run.workdir.name).info.run_id
        if known is None:
            _keep(run.workdir, "mlflow", self._run_id)
            sections = configs.to_dict(run.config).items()
            mlflow.log_params(
                {f"{name}.{key}": value for name, part in sections for key, value in part.items()}
            )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log all values of a step together."""
        import mlflow

        mlflow.log_metrics(dict(values), step=step, run_id=self._run_id)

    def close(self) -> None:
        """Mark the run as finished, which does not keep it from going on."""
        import mlflow

        mlflow.end_run()


@dataclass(frozen=True)
class Kind:
    """A kind of writer."""

    module: str
    """What must be installed for it; the extra of jaxml that brings it has the kind's name."""
    open: Callable[[Run, int | None], Writer]
    """Function (run, first) -> writer, after whose step `first` this process begins; None only adds to a record."""


WRITERS = {
    "tensorboard": Kind("tensorboardX", TensorBoard),
    "wandb": Kind("wandb", WandB),
    "mlflow": Kind("mlflow", MLflow),
}
"""Kinds of writers by the name that `train.writers` gives them."""


class Records(Callback):
    """Passes on to writers what `metrics.jsonl` holds, and the results.

    A writer that fails while the run goes on is warned of and left out from there on, for a run is not to be lost by a
    service that cannot be reached.

    Raises:
        ImportError: the package of a writer is not installed.
    """

    def __init__(self, names: tuple[str, ...]):
        for name in names:
            if find_spec(WRITERS[name].module) is None:
                raise ImportError(
                    f"--train.writers {name} needs {WRITERS[name].module}, which is not installed: "
                    f"`pip install jaxml[{name}]`"
                )
        self._names = dict.fromkeys(names)
        self._open: dict[str, Writer] = {}

    def on_begin(self, run: Run) -> None:
        """Begin the records, or go on with them."""
        self._begin(run, int(run.state.step))

    def on_step(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """Write every `train.log_every`-th step."""
        if step % run.config.train.log_every == 0:
            self._write(step, metrics)

    def on_validation(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """Write every validation."""
        self._write(step, {f"val_{name}": value for name, value in metrics.items()})

    def on_end(self, run: Run) -> None:
        """Close the records."""
        self._close()

    def on_results(self, run: Run, results: dict[str, Any]) -> None:
        """Add the scores of the classes that are reported on, at the step of the network that was scored."""
        part = results["split"]
        try:
            self._begin(run, None)
        except RunError as error:  # The run is finished all the same.
            log.warning("%s; the results are in the run's directory only", error)
        self._write(results["step"], {f"{part}_{name}": value for name, value in results[part].items()})
        self._close()

    def _begin(self, run: Run, first: int | None) -> None:
        for name in self._names:
            try:
                self._open[name] = WRITERS[name].open(run, first)
            # Each library has errors of its own, such as for a service that is not there.
            except Exception as error:
                self._close()
                raise RunError(f"--train.writers {name}: {_line(error)}") from error

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        plain = {name.replace("@", "_at_"): float(value) for name, value in values.items()}
        self._each(lambda writer: writer.write(step, plain))

    def _close(self) -> None:
        self._each(lambda writer: writer.close())
        self._open = {}

    def _each(self, action: Callable[[Writer], None]) -> None:
        for name, writer in list(self._open.items()):
            try:
                action(writer)
            except Exception as error:
                log.warning("--train.writers %s: %s; nothing more is written there", name, _line(error))
                del self._open[name], self._names[name]


def records(config: Config) -> list[Callback]:
    """The callback that writes a run's records, if the configuration asks for some. Raises as `Records` does."""
    return [Records(config.train.writers)] if config.train.writers else []


def _kept(workdir: Path, kind: str) -> str | None:
    """The name under which a run goes on with a service, if it has one."""
    path = workdir / "writers.json"
    names = parse_json(path.read_bytes(), path) if path.is_file() else {}
    return names.get(kind)


def _keep(workdir: Path, kind: str, name: str) -> str:
    """Keep, and return, the name under which a run goes on with a service."""
    path = workdir / "writers.json"
    names = parse_json(path.read_bytes(), path) if path.is_file() else {}
    write_json(path, {**names, kind: name})
    return name


def _line(error: Exception) -> str:
    """An error of a library on one line."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split())[:300])
