"""The loop: steps until the last one, with logs, validation and checkpoints on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np
from tqdm import tqdm

from jaxml.data import sampling
from jaxml.evaluation.clustering import validate
from jaxml.training import distributed, health, history, provenance
from jaxml.training import input_triplets as triplets
from jaxml.training import optimizer as optim
from jaxml.training import step as training
from jaxml.training.preemption import Interrupted, Preempted
from jaxml.training.profiling import traced

if TYPE_CHECKING:
    from jaxml.training.run import Run


def fit(run: Run, embed: Callable) -> None:
    """Train the run's state up to `train.steps`; `embed` embeds validation images.

    Raises:
      RunError: a loss or gradient is not finite; names step and tensors. The last checkpoint is from before.
      Preempted: a signal to stop came; the state is saved.
    """
    settings = run.config.train
    first = step = int(run.state.step)
    advance = stepper(run, first, embed)
    if settings.profile and distributed.is_main():
        advance = traced(advance, settings.profile, run.workdir / "profile")
    # Calls may queue up on an accelerator; on CPU devices that can deadlock.
    queue_up = run.devices[0].platform != "cpu"
    state = training.replicate(run.state, run.devices)
    pending = None

    def due(step: int) -> bool:
        return run.validates and (step >= settings.steps or step % settings.eval_every == 0)

    def save(step: int, state: training.TrainState, stopping: bool) -> None:
        embeddings = _embeddings(run, embed, state) if due(step) else None
        distributed.on_main(partial(_validate_and_save, run, step, state, embeddings, progress))
        run.signals.saved = f"step {step} is saved"
        if stopping or run.signals.received:
            raise Preempted(run.signals.message())
        progress.restart_clock()

    with run.signals.steps(), _Progress(run, first) as progress:
        if first and due(first) and not distributed.on_main(partial(progress.validated, first)):
            save(first, state, False)  # a signal had left no time for it
        while step < settings.steps:
            try:
                state, metrics = advance(state)
            except Interrupted:  # while triplets were chosen
                if pending:
                    progress.collect(*pending)
                if step not in run.checkpoints.steps():
                    save(step, state, True)
                break
            if pending:
                progress.collect(*pending)
            pending = (step, metrics)
            step += settings.steps_per_call
            last = step >= settings.steps
            stopping = _stopping(run, turn=step // settings.steps_per_call)
            saving = last or due(step) or stopping or step % settings.save_every == 0
            if saving or not queue_up:
                progress.collect(*pending)
                pending = None
            if saving:
                save(step, state, stopping)
    run.state = state


def _stopping(run: Run, turn: int) -> bool:
    """Whether to save and stop now: the same answer in every process at the same turn, counted by ones."""
    # Among several processes jax.distributed handles the signal.
    return run.signals.received if jax.process_count() == 1 else distributed.preempted(turn)


def _embeddings(run: Run, embed: Callable, state: training.TrainState) -> np.ndarray | None:
    """Embeddings of the validation images; None where a signal to stop came before all were there."""
    try:
        embeddings = embed(state, run.images.rows("val"))
        health.warn_collapsed(embeddings, "validation images")
    except Interrupted:
        return None
    return embeddings


def _validate_and_save(
    run: Run, step: int, state: training.TrainState, embeddings: np.ndarray | None, progress: _Progress
) -> None:
    """A checkpoint, scored by the embeddings of the validation images where there are some."""
    found: dict[str, float] = {}
    if embeddings is not None:
        found = validate(embeddings, run.images.index.labels[run.images.rows("val")])
        progress.show(step, found)
    meta = provenance.meta(run.config, run.pictures)
    run.checkpoints.save(step, state, score=found.get("nmi"), meta=meta)


def stepper(run: Run, first: int, embed: Callable) -> Callable:
    """Function state -> (state, metrics [n]): `steps_per_call` steps at a time, from `first` on, from either input.

    `embed` is used where triplets are chosen by the embeddings of the training images.
    """
    config, devices = run.config, run.devices
    shape = (config.data.classes_per_batch, config.data.images_per_class)
    table = sampling.class_table(run.images.index.labels, run.images.classes(config.data.train_on))
    if run.images.resident is not None and config.train.mode == "batch":
        pixels = training.in_lines(np.asarray(run.images.resident))
        pixels, table = training.replicate((pixels, table), devices)
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
        # Steps queue up on an accelerator: it computes one while the next one's pixels are on their way.
        shares = [training.divide(x, devices) for x in next_batch(state)]
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

    def __init__(self, run: Run, first: int):
        config = run.config
        self._names = [name for name, _ in optim.trainable(config.optim, run.state.params)]
        self._collapse = health.Collapse(config)
        self._batch = config.data.classes_per_batch * config.data.images_per_class
        self._log_every = config.train.log_every
        self._history = (
            history.History(run.workdir / "metrics.jsonl", first) if distributed.is_main() else None
        )
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

    def validated(self, step: int) -> bool:
        """Whether the record held a validation of this step when it was opened."""
        return self._history is not None and self._history.validated(step)

    def collect(self, start: int, metrics: dict[str, jax.Array]) -> None:
        """Wait for the metrics [n] of the steps after `start`, check, show and log them."""
        values = jax.device_get(metrics)
        squares = values.pop("grad_squares")
        count = len(values["loss"])
        now = time.perf_counter()
        speed, self._clock = self._batch * count / (now - self._clock), now
        for i in range(count):
            step, row = start + i + 1, {name: float(value[i]) for name, value in values.items()}
            health.check_finite(row, squares[i], self._names, step)
            self._collapse.watch(row, step)
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
