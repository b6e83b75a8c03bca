"""The loop: steps until the last one, with logs, validation and checkpoints on the way."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from tqdm import tqdm

from jaxml import config as configs
from jaxml import distributed, history, triplets
from jaxml import train as training
from jaxml.config import Config
from jaxml.data import sampling
from jaxml.evaluate import validate
from jaxml.profiling import traced

if TYPE_CHECKING:
    from jaxml.run import Run


class RunError(RuntimeError):
    """A run that can not start or go on; the message says what to do."""


class Preempted(RunError):
    """The run was stopped by SIGTERM after its state was saved."""


def fit(run: Run, embed: Callable) -> None:
    """Train the run's state up to `train.steps`; `embed` embeds validation images.

    Raises:
      RunError: a loss or gradient is not finite; the last checkpoint is from before.
      Preempted: SIGTERM came; the state is saved.
    """
    config, settings = run.config, run.config.train
    first = step = int(run.state.step)
    rows = run.images.rows("val") if run.validates else np.array([], int)
    advance = stepper(run, first, embed)
    if settings.profile and distributed.is_main():
        advance = traced(advance, settings.profile, run.workdir / "profile")
    # Calls may queue up on an accelerator; on CPU devices that can deadlock.
    queue_up = run.devices[0].platform != "cpu"
    state = training.replicate(run.state, run.devices)
    pending = None
    with _Sigterm() as sigterm, _Progress(config, run.workdir, first) as progress:
        while step < settings.steps:
            state, metrics = advance(state)
            if pending:
                progress.collect(*pending)
            pending = (step, metrics)
            step += settings.steps_per_call
            last = step >= settings.steps
            validating = run.validates and (last or step % settings.eval_every == 0)
            stopping = sigterm.came(turn=step // settings.steps_per_call)
            saving = last or validating or stopping or step % settings.save_every == 0
            if saving or not queue_up:
                progress.collect(*pending)
                pending = None
            if not saving:
                continue
            embeddings = embed(state, rows) if validating else None
            distributed.on_main(partial(_validate_and_save, run, step, state, embeddings, progress))
            if stopping and not last:
                raise Preempted(f"stopped by SIGTERM; step {step} is saved, continue with --resume")
            progress.restart_clock()
    run.state = state


def _validate_and_save(
    run: Run, step: int, state: training.TrainState, embeddings: np.ndarray | None, progress: _Progress
) -> None:
    """A checkpoint, scored by the embeddings of the validation images where there are some."""
    found: dict[str, float] = {}
    if embeddings is not None:
        found = validate(embeddings, run.images.index.labels[run.images.rows("val")])
        progress.show(step, found)
    meta = {"config": configs.to_dict(run.config)}
    run.checkpoints.save(step, state, score=found.get("nmi"), meta=meta)


def stepper(run: Run, first: int, embed: Callable) -> Callable:
    """Function state -> (state, metrics [n]): `steps_per_call` steps at a time, from `first` on, from either input.

    `embed` is used where triplets are chosen by the embeddings of the training images.
    """
    config, devices = run.config, run.devices
    shape = (config.data.classes_per_batch, config.data.images_per_class)
    table = sampling.class_table(run.images.index.labels, run.images.classes(config.data.train_on))
    if run.images.resident is not None and config.train.mode == "batch":
        pixels, table = training.replicate((np.asarray(run.images.resident), table), devices)
        count = config.train.steps_per_call
        if devices[0].platform != "cpu":
            steps = partial(training.resident_steps, run.learner, count)
            call = training.parallel(steps, in_axes=(None, None, None), devices=devices)
            return lambda state: call(state, pixels, table)
        # XLA's CPU convolutions are several times slower inside a loop, and a call costs a CPU nothing.
        step = training.parallel(
            partial(training.resident_step, run.learner), in_axes=(None, None, None), devices=devices
        )

        def single_steps(state):
            rows = []
            for _ in range(count):
                state, metrics = step(state, pixels, table)
                rows.append(jax.device_get(metrics))
            return state, jax.tree.map(lambda *values: np.stack(values), *rows)

        return single_steps

    call = training.parallel(partial(training.train_step, run.learner), in_axes=(None, 0, 0), devices=devices)
    next_batch = (
        triplets.batches(run, first, embed)
        if config.train.mode == "input_triplets"
        else _streamed(run, first, table, shape)
    )

    def advance(state):
        shares = (x.reshape(len(devices), -1, *x.shape[1:]) for x in next_batch(state))
        state, metrics = call(state, *shares)
        return state, {name: value[None] for name, value in metrics.items()}

    return advance


def _streamed(run: Run, first: int, table: sampling.ClassTable, shape: tuple[int, int]) -> Callable:
    """Function state -> (pixels, labels) of the steps from `first` on; the state is not looked at."""
    config = run.config
    draw = jax.jit(lambda step: sampling.sample(config.train.seed, step, table, *shape))
    drawn: list[np.ndarray] = []

    def rows() -> Iterator[np.ndarray]:
        for step in range(first, config.train.steps):
            indices, labels = map(distributed.share, jax.device_get(draw(step)))
            drawn.append(labels)
            yield indices

    batches = run.images.read(rows())
    return lambda state: (next(batches), drawn.pop(0))


class _Progress:
    """The run's record, a progress bar, and the check that every step's numbers are finite."""

    def __init__(self, config: Config, workdir: Path, first: int):
        self._batch = config.data.classes_per_batch * config.data.images_per_class
        self._log_every = config.train.log_every
        self._history = history.History(workdir / "metrics.jsonl", first) if distributed.is_main() else None
        self._bar = tqdm(
            desc="training",
            total=config.train.steps,
            initial=first,
            unit="step",
            disable=not distributed.is_main(),
        )
        self.restart_clock()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def restart_clock(self) -> None:
        """Leave what came since the last step out of images/s."""
        self._clock = time.perf_counter()

    def _record(self, row: dict[str, float]) -> None:
        if self._history:
            self._history.write(row)

    def collect(self, start: int, metrics: dict[str, jax.Array]) -> None:
        """Wait for the metrics [n] of the steps after `start`, check, show and log them."""
        values = jax.device_get(metrics)
        count = len(values["loss"])
        now = time.perf_counter()
        speed, self._clock = self._batch * count / (now - self._clock), now
        for i in range(count):
            step, row = start + i + 1, {name: float(value[i]) for name, value in values.items()}
            if bad := [name for name, value in row.items() if not np.isfinite(value)]:
                raise RunError(
                    f"{' and '.join(bad)} not finite at step {step}; lower --optim.learning_rate or continue "
                    f"from an older checkpoint. Nothing of this step was saved"
                )
            if step % self._log_every == 0:
                self._record({"step": step, **row, "images_per_second": round(speed, 1)})
        self._bar.update(count)
        self._bar.set_postfix_str(
            f"loss {row['loss']:.4f}, active {row['active_share']:.1%}, {speed:.0f} images/s"
        )

    def show(self, step: int, found: dict[str, float]) -> None:
        """Print and log a validation."""
        self._record({"step": step, **{f"val_{name}": value for name, value in found.items()}})
        self._bar.write(
            f"step {step}: validation NMI {found['nmi']:.4f}, F1 {found['f1']:.4f}, "
            f"Recall@1 {found['recall@1']:.4f}"
        )


class _Sigterm:
    """Turns SIGTERM into a flag while steps are running; among several processes jax.distributed does so."""

    def __enter__(self) -> _Sigterm:
        self._received = False
        self._handles = jax.process_count() == 1
        if self._handles:
            self._before = signal.signal(signal.SIGTERM, self._raise_flag)
        return self

    def __exit__(self, *_) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)

    def _raise_flag(self, *_) -> None:
        self._received = True

    def came(self, turn: int) -> bool:
        """Whether to save and stop now: the same answer in every process at the same turn, counted by ones."""
        return self._received if self._handles else distributed.preempted(turn)
