"""The training loop: steps until the last one, with validation, checkpoints and callbacks on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from jaxml import distributed
from jaxml.errors import Interrupted, Preempted
from jaxml.evaluation.clustering import validate
from jaxml.training import devices, health, history, inputs, optimizer, patience
from jaxml.training.callbacks import Callback, Record, ShowProgress
from jaxml.training.learner import Metrics
from jaxml.training.profiling import traced
from jaxml.training.run import Run


def fit(run: Run, callbacks: Sequence[Callback] = ()) -> None:
    """Train the run's state up to `train.steps`, or until `train.patience` is exhausted.

    Raises:
        RunError: a loss or gradient is not finite; names step and tensors. The last checkpoint is from before.
        Preempted: a signal to stop came; the state is saved.
    """
    settings = run.config.train
    first = step = int(run.state.step)
    run.state = devices.replicate(run.state, run.devices)
    advance = inputs.stepper(run, first)
    if settings.profile and distributed.is_main():
        advance = traced(advance, settings.profile, run.workdir / "profile")
    validated = distributed.on_main(partial(_validated, run, first))
    loop = _Loop(run, callbacks)
    loop.ended = distributed.on_main(partial(_ended, run, first))
    with run.signals.steps(), loop:
        if first and run.validates_at(first) and not validated:
            loop.save(first, stopping=False)  # the validation that a signal left no time for
        while step < settings.steps and not loop.ended:
            try:
                run.state, metrics = advance(run.state)
            except Interrupted:  # while triplets were chosen
                loop.report_held()
                if step not in run.checkpoints.steps():
                    loop.save(step, stopping=True)
                break
            loop.take(step, metrics)
            step += settings.steps_per_call
            stopping = _stopping(run, turn=step // settings.steps_per_call)
            due = run.validates_at(step) or step % settings.save_every == 0
            if due or stopping or step >= settings.steps:
                loop.report_held()
                loop.save(step, stopping)
    if loop.ended:
        distributed.say(loop.ended)


def _validated(run: Run, step: int) -> bool:
    """Whether the run's record holds a validation of this step."""
    return any(
        row["step"] == step and "val_nmi" in row for row in history.read(run.workdir / "metrics.jsonl")
    )


def _ended(run: Run, step: int) -> str:
    """Why the run ends at this step already, by its record; empty if it goes on."""
    rows = history.read(run.workdir / "metrics.jsonl")
    return patience.exhausted(rows, run.config.train.patience, step)


def _stopping(run: Run, turn: int) -> bool:
    """Whether to save and stop now: the same answer in every process at the same turn, counted by ones."""
    # Among several processes jax.distributed handles the signal.
    return run.signals.received if jax.process_count() == 1 else distributed.preempted(turn)


class _Loop:
    """Reports, validates and saves the steps of a run, and tells the callbacks of it.

    `ended` says why the run ends before its last step; it is empty while it goes on.
    """

    def __init__(self, run: Run, callbacks: Sequence[Callback]):
        self._run = run
        self._names = [name for name, _ in optimizer.trainable(run.config, run.state.params)]
        self._batch = run.config.data.classes_per_batch * run.config.data.images_per_class
        mine = (Record(), ShowProgress(), health.CollapseWarning())
        self._callbacks = (*mine, *callbacks) if distributed.is_main() else ()
        # Calls may queue up on an accelerator; on CPU devices that can deadlock.
        self._queues = run.devices[0].platform != "cpu"
        self._held: tuple[int, Metrics] | None = None
        self.ended = ""

    def __enter__(self) -> _Loop:
        for callback in self._callbacks:
            callback.on_begin(self._run)
        self._clock = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        for callback in self._callbacks:
            callback.on_end(self._run)

    def take(self, start: int, metrics: Metrics) -> None:
        """Report the metrics [n] of the n steps after `start`; on an accelerator once the next steps are under way."""
        self.report_held()
        self._held = start, metrics
        if not self._queues:
            self.report_held()

    def report_held(self) -> None:
        """Report the steps that were taken last, unless they are reported."""
        if self._held:
            self._report(*self._held)
            self._held = None

    def _report(self, start: int, metrics: Metrics) -> None:
        """Wait for the metrics [n] of the n steps after `start`, check them, and pass them on."""
        values = jax.device_get(metrics)
        squares = values.pop("grad_squares")
        count = len(values["loss"])
        now = time.perf_counter()
        speed, self._clock = self._batch * count / (now - self._clock), now
        for i in range(count):
            step, row = start + i + 1, {name: float(value[i]) for name, value in values.items()}
            health.check_finite(row, squares[i], self._names, step)
            for callback in self._callbacks:
                callback.on_step(self._run, step, {**row, "images_per_second": round(speed, 1)})

    def save(self, step: int, stopping: bool) -> None:
        """Validate where that is due, write a checkpoint, and end the run if it is to stop."""
        run = self._run
        embeddings = self._validation_embeddings() if run.validates_at(step) else None
        distributed.on_main(partial(self._validate_and_save, step, embeddings))
        self.ended = distributed.on_main(partial(_ended, run, step))
        run.signals.saved = step
        if stopping or run.signals.received:
            raise Preempted(run.signals.message())
        self._clock = time.perf_counter()  # leaves all this out of images per second

    def _validation_embeddings(self) -> np.ndarray | None:
        """Embeddings float32 [n, D] of the validation images; None where a signal to stop came first."""
        try:
            embeddings = self._run.embed(self._run.images.rows("val"))
            health.warn_collapsed(embeddings, "validation images")
        except Interrupted:
            return None
        return embeddings

    def _validate_and_save(self, step: int, embeddings: np.ndarray | None) -> None:
        """Write a checkpoint, scored by the embeddings [n, D] of the validation images where there are some."""
        run, scores = self._run, {}
        if embeddings is not None:
            scores = validate(embeddings, run.images.index.labels[run.images.rows("val")])
            for callback in self._callbacks:
                callback.on_validation(run, step, scores)
        run.checkpoints.save(step, run.state, score=scores.get("nmi"), meta=run.meta)
        for callback in self._callbacks:
            callback.on_checkpoint(run, step)
