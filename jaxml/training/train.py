"""Trains a run in its directory, from its configuration to its results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxml import config as configs
from jaxml.config import Config
from jaxml.errors import RunError
from jaxml.files import write_json
from jaxml.training import distributed, health, history, learner, optimizer, provenance
from jaxml.training.callbacks import Callback
from jaxml.training.lock import locked
from jaxml.training.loop import fit
from jaxml.training.preemption import StopSignals
from jaxml.training.results import frozen_features, write_results
from jaxml.training.run import Run, open_run, say_changes

CREATED = ("checkpoints", "damaged", "data.jsonl", "metrics.jsonl", "results.json", "report.html", "triplets")
"""What a run creates in its directory after config.json."""


def train(
    config: Config,
    workdir: str | Path,
    *,
    resume: bool = False,
    other_data: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train, score the test classes, write the report; returns what `results.json` holds. Raises as `learn` does."""
    with ExitStack() as held, _guarded(config) as signals:
        run = _learn(config, Path(workdir), resume, other_data, callbacks, signals, held)
        return _finish(run)


def learn(
    config: Config,
    workdir: str | Path,
    *,
    resume: bool = False,
    other_data: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train only: the run at its last step. Nothing of the test classes is looked at.

    With `other_data` a run may be resumed on other pictures than those it has seen.

    Raises:
        RunError: the directory holds another run, another process trains there, `resume` finds no run there or one
            that saw other pictures, the loss is no longer finite, or memory ran out.
        Preempted: SIGTERM, Ctrl-C or SIGHUP came; the state is saved.
    """
    with ExitStack() as held, _guarded(config) as signals:
        return _learn(config, Path(workdir), resume, other_data, callbacks, signals, held)


@contextmanager
def _guarded(config: Config) -> Iterator[StopSignals]:
    """Signals to stop and lack of memory end in one line."""
    devices = (config.train.devices or jax.local_device_count()) * jax.process_count()
    with StopSignals(alone=jax.process_count() == 1) as signals, health.explain_memory(config, devices):
        yield signals


def _learn(
    config: Config,
    workdir: Path,
    resume: bool,
    other_data: bool,
    callbacks: Sequence[Callback],
    signals: StopSignals,
    held: ExitStack,
) -> Run:
    config = distributed.on_main(partial(_claim, config, workdir, resume, held))
    run = replace(open_run(config, workdir, to_train=True), signals=signals)
    distributed.on_main(partial(_check_not_lost, run))
    if distributed.on_main(run.checkpoints.steps):
        check = partial(run.check_to_resume, other_data=other_data)
        run.state, meta = distributed.on_main(partial(run.checkpoints.restore_newest, run.state, check))
        step = int(run.state.step)
        signals.saved = f"step {step} is saved"
        distributed.say(f"resuming at step {step} of {config.train.steps}")
        say_changes(step, meta, config)
    elif config.model.weights:
        run.state, weights = learner.load_weights(config, run.state)
        distributed.on_main(partial(write_json, workdir / "weights.json", weights))
    distributed.on_main(partial(_record, run))
    distributed.say(optimizer.table(config.optim, run.state.params))
    fit(run, callbacks)
    return run


def _claim(config: Config, workdir: Path, resume: bool, held: ExitStack) -> Config:
    """Lock the run's directory, and make it, or check that it holds this very run.

    Returns the configuration, for processes that have none.
    """
    path = workdir / "config.json"
    if resume and not path.exists():
        raise RunError(f"{workdir} holds no run to resume: there is no config.json")
    held.enter_context(locked(workdir))
    if resume:
        if different := provenance.changed(configs.load(path), config)[0]:
            raise RunError(f"{workdir} holds another run; it differs in {'; '.join(different)}")
        return config
    if path.exists():
        raise RunError(f"{workdir} holds a run; continue it with --resume or choose another --workdir")
    if found := [name for name in CREATED if (workdir / name).exists()]:
        raise RunError(f"{workdir} holds {', '.join(found)}, but no config.json; choose another --workdir")
    configs.save(path, config)
    return config


def _check_not_lost(run: Run) -> None:
    """Never start over by ourselves where checkpoints must have been."""
    train = run.config.train
    if run.checkpoints.steps():
        return
    logged = max((row["step"] for row in history.read(run.workdir / "metrics.jsonl")), default=0)
    first = min(train.save_every, train.eval_every if run.validates else train.steps, train.steps)
    if run.checkpoints.damaged() or logged > first:
        raise RunError(
            f"no sound checkpoint in {run.checkpoints.directory}, but the run has come to step {logged}; put one back, "
            f"or start a new run in another --workdir"
        )


def _record(run: Run) -> None:
    """Write what the run learns with and from, now that nothing refuses it."""
    configs.save(run.workdir / "config.json", run.config)
    run.pictures.save(run.workdir)
    if run.teacher:
        write_json(run.workdir / "teacher.json", run.teacher.record(run.config))


def _finish(run: Run) -> dict[str, Any]:
    """Score the test classes once with the chosen checkpoint, beside the baselines; write results and report."""
    # Its pictures are those of now, or others that were allowed when it was resumed.
    run.restore_best(partial(run.check, other_data=True))
    rows = run.images.rows("test")
    embeddings = run.embed(rows)
    health.warn_collapsed(embeddings, "test images")
    frozen = frozen_features(run, rows) if run.config.model.weights else None
    return distributed.on_main(partial(write_results, run, rows, embeddings, frozen))
