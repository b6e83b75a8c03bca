"""The loop: steps until the last one, with logs, validation and checkpoints on the way."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np
from tqdm import tqdm

from jaxml import config as configs
from jaxml import history, triplets
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
    recorder = history.History(run.workdir / "metrics.jsonl", keep_to=first)
    rows = run.images.rows("val") if run.validates else np.array([], int)
    advance = stepper(run, first, embed)
    if settings.profile:
        advance = traced(advance, settings.profile, run.workdir / "profile")
    # Calls may queue up on an accelerator; on CPU devices that can deadlock.
    queue_up = run.devices[0].platform != "cpu"
    state = training.replicate(run.state, run.devices)
    pending = None
    with _Sigterm() as sigterm, _Progress(config, first) as progress:
        while step < settings.steps:
            state, metrics = advance(state)
            if pending:
                progress.collect(*pending, recorder)
            pending = (step, metrics)
            step += settings.steps_per_call
            last = step >= settings.steps
            validating = run.validates and (last or step % settings.eval_every == 0)
            saving = last or validating or sigterm.received or step % settings.save_every == 0
            if saving or not queue_up:
                progress.collect(*pending, recorder)
                pending = None
            if not saving:
                continue
            found = validate(embed(state, rows), run.images.index.labels[rows]) if validating else {}
            if found:
                recorder.write({"step": step, **{f"val_{name}": value for name, value in found.items()}})
                progress.show(found)
            meta = {"config": configs.to_dict(config)}
            run.checkpoints.save(step, state, score=found.get("nmi"), meta=meta)
            if sigterm.received and not last:
                raise Preempted(f"stopped by SIGTERM; step {step} is saved, continue with --resume")
            progress.restart_clock()
    run.state = state


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
            indices, labels = jax.device_get(draw(step))
            drawn.append(labels)
            yield indices

    batches = run.images.read(rows())
    return lambda state: (next(batches), drawn.pop(0))


class _Progress:
    """A progress bar, and the check that every step's numbers are finite."""

    def __init__(self, config: Config, first: int):
        self._batch = config.data.classes_per_batch * config.data.images_per_class
        self._log_every = config.train.log_every
        self._bar = tqdm(total=config.train.steps, initial=first, unit="step", desc="training")
        self.restart_clock()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def restart_clock(self) -> None:
        """Leave what came since the last step out of images/s."""
        self._clock = time.perf_counter()

    def collect(self, start: int, metrics: dict[str, jax.Array], recorder: history.History) -> None:
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
                recorder.write({"step": step, **row, "images_per_second": round(speed, 1)})
        self._bar.update(count)
        self._bar.set_postfix_str(
            f"loss {row['loss']:.4f}, active {row['active_share']:.1%}, {speed:.0f} images/s"
        )

    def show(self, found: dict[str, float]) -> None:
        """Print a validation."""
        self._bar.write(
            f"step {self._bar.n}: validation NMI {found['nmi']:.4f}, F1 {found['f1']:.4f}, "
            f"Recall@1 {found['recall@1']:.4f}"
        )


class _Sigterm:
    """Turns SIGTERM into a flag while steps are running."""

    def __enter__(self) -> _Sigterm:
        self.received = False
        self._before = signal.signal(signal.SIGTERM, self._raise_flag)
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _raise_flag(self, *_) -> None:
        self.received = True
