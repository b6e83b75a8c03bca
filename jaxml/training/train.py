"""Trains a run in its directory, from its configuration to its results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxml import distributed
from jaxml.config import Config
from jaxml.files import write_json
from jaxml.training import health, history, learner, optimizer, saved, start, writers
from jaxml.training.callbacks import Callback
from jaxml.training.directory import Directory
from jaxml.training.features import WEIGHTS, begin_head, frozen_features
from jaxml.training.loop import fit
from jaxml.training.preemption import GO_ON, StopSignals
from jaxml.training.results import write_results
from jaxml.training.run import Run, open_run
from jaxml.training.seen import SEEN, seen_classes
from jaxml.training.weights import has_head, load_weights, taken


def train(
    config: Config,
    workdir: str | Path,
    *,
    resume: bool = False,
    other_data: bool = False,
    callbacks: Sequence[Callback] = (),
    go_on: str = GO_ON,
) -> dict[str, Any]:
    """Train, score the test classes, write the report; returns what `results.json` holds. Raises as `learn` does."""
    callbacks = (*callbacks, *writers.records(config))
    with ExitStack() as held, _guarded(config, go_on) as signals:
        directory = Directory(Path(workdir), resume, go_on, held)
        return _finish(_learn(config, directory, other_data, callbacks, signals), callbacks)


def learn(
    config: Config,
    workdir: str | Path,
    *,
    resume: bool = False,
    other_data: bool = False,
    callbacks: Sequence[Callback] = (),
    go_on: str = GO_ON,
) -> Run:
    """Train only: the run at its last step. Nothing of the test classes is looked at.

    With `other_data` a run may be resumed on other pictures than those it has seen. `go_on` is how messages say that
    the run in the directory continues.

    Raises:
        ImportError: a package that `train.writers` needs is not installed.
        RunError: the directory holds another run, another process trains there, `resume` finds no run there or one
            that saw other pictures, the loss is no longer finite, or memory ran out.
        Preempted: SIGTERM, Ctrl-C or SIGHUP came; the state is saved.
    """
    callbacks = (*callbacks, *writers.records(config))
    with ExitStack() as held, _guarded(config, go_on) as signals:
        directory = Directory(Path(workdir), resume, go_on, held)
        return _learn(config, directory, other_data, callbacks, signals)


@contextmanager
def _guarded(config: Config, go_on: str) -> Iterator[StopSignals]:
    """Signals to stop and lack of memory end in one line."""
    devices = (config.train.devices or jax.local_device_count()) * jax.process_count()
    with StopSignals(jax.process_count() == 1, go_on) as signals, health.explain_memory(config, devices):
        yield signals


def _learn(
    config: Config,
    directory: Directory,
    other_data: bool,
    callbacks: Sequence[Callback],
    signals: StopSignals,
) -> Run:
    config, signals.saved = distributed.on_main(partial(directory.look, start.from_anywhere(config)))
    run = replace(open_run(config, directory.path, to_train=True), signals=signals)
    weights, seen, before = None, None, config.train.steps
    if signals.saved is not None:
        check = partial(run.check_to_resume, other_data=other_data)
        run.state, meta = distributed.on_main(partial(run.checkpoints.restore_newest, run.state, check))
        signals.saved = step = int(run.state.step)
        distributed.say(f"resuming at step {step} of {config.train.steps}")
        saved.say_changes(step, meta, config)
        before = meta["config"]["train"]["steps"]
        if before != config.train.steps:
            distributed.say(optimizer.rescheduled(config.optim, before, config.train.steps, step))
    else:
        state = run.state
        if config.model.weights:
            state, weights = load_weights(config, state)
            distributed.say(taken(weights, state))
        seen = distributed.on_main(partial(seen_classes, config, run.images, run.reported, run.pictures))
        if config.model.head_init == "pca" and not (weights and has_head(weights)):
            state = begin_head(replace(run, state=state))
        run.state = learner.averaged(config, state)
    distributed.on_main(partial(_claim, directory, run, weights, seen, before))
    distributed.say(optimizer.table(config, run.state.params))
    fit(run, callbacks)
    return run


def _claim(
    directory: Directory,
    run: Run,
    weights: dict[str, Any] | None,
    seen: dict[str, Any] | None,
    before: int,
) -> None:
    """Write what the run learns with and from, now that nothing refuses it; `before` is its train.steps until now."""
    directory.claim(run.config)
    if run.config.train.steps != before:
        history.note_steps(run.workdir / "metrics.jsonl", int(run.state.step), run.config.train.steps)
    if weights:
        write_json(run.workdir / WEIGHTS, weights)
    if seen:
        write_json(run.workdir / SEEN, seen)
    run.pictures.save(run.workdir)
    if run.teacher:
        write_json(run.workdir / "teacher.json", run.teacher.record(run.config))


def _finish(run: Run, callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Score the classes to report on once with the chosen checkpoint, beside baselines; write results and report."""
    # Its pictures are those of now, or others that were allowed when it was resumed.
    run.restore_best(partial(run.check, other_data=True))
    rows = run.images.rows(run.reported)
    embeddings = run.embed(rows)
    health.warn_collapsed(embeddings, f"{run.reported} images")
    frozen = frozen_features(run, rows) if run.config.model.weights else None
    results = distributed.on_main(partial(write_results, run, rows, embeddings, frozen))
    for callback in callbacks if distributed.is_main() else ():
        callback.on_results(run, results)
    return results
