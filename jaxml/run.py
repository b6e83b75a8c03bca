"""A run from its configuration to its results, all in one directory.

config.json      what was asked for         weights.json     where pretrained weights came from
checkpoints/     the newest two, the best   metrics.jsonl    one line per logged step and validation
results.json     metrics of test classes    report.html      all of it to look at
"""

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxml import config as configs
from jaxml import history, optim, report
from jaxml import train as training
from jaxml.checkpoint import Checkpoints
from jaxml.config import Config
from jaxml.data import sampling
from jaxml.data.images import Images, open_images
from jaxml.evaluate import cluster, evaluate, validate

log = logging.getLogger(__name__)

MAY_CHANGE = ("data.root", "data.input", "data.cache", "model.weights", "train.devices", "eval.")
"""Options, by their beginning, that a resumed run may set anew: none changes what is learned."""


class RunError(RuntimeError):
    """A run that can not start or go on; the message says what to do."""


class Preempted(RunError):
    """The run was stopped by SIGTERM after its state was saved."""


@dataclass
class Run:
    """A run that is open: what it learns with, from and on."""

    workdir: Path
    learner: training.Learner
    state: training.TrainState
    images: Images
    devices: list
    checkpoints: Checkpoints

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self.learner.config

    @property
    def validates(self) -> bool:
        """Whether validation classes are left to choose the best step by."""
        return self.config.data.train_on == "train"


def train(config: Config, workdir: str | Path, *, resume: bool = False) -> dict[str, Any]:
    """Train, score the test classes, write the report; returns what `results.json` holds.

    Raises:
      RunError: the directory holds another run, `resume` finds none there, or the loss is no longer finite.
      Preempted: SIGTERM came; the state is saved.
    """
    workdir = Path(workdir)
    _claim(config, workdir, resume)
    run = _open(config, workdir)
    if run.checkpoints.steps():
        run.state, _ = run.checkpoints.restore_newest(run.state)
        print(f"resuming at step {int(run.state.step)} of {config.train.steps}")
    elif config.model.weights:
        run.state, weights = training.load_weights(config, run.state)
        _write_json(workdir / "weights.json", weights)
    print(optim.table(config.optim, run.state.params))
    embed = embedder(run)
    _fit(run, embed)
    return _finish(run, embed)


def load(workdir: str | Path, *, data_root: str = "") -> Run:
    """A finished or interrupted run with its best checkpoint (the last, where nothing was validated).

    `data_root` is where the data set lies now, if it has moved.

    Raises:
      RunError: there is no run, or it has saved nothing yet.
    """
    workdir = Path(workdir)
    if not (workdir / "config.json").exists():
        raise RunError(f"{workdir} holds no run: there is no config.json")
    config = configs.load(workdir / "config.json")
    if data_root:
        config = replace(config, data=replace(config.data, root=data_root))
    run = _open(replace(config, train=replace(config.train, devices=0)), workdir)
    if not run.checkpoints.steps():
        raise RunError(f"{workdir} has no checkpoint yet")
    _restore_best(run)
    return run


def embedder(run: Run) -> Callable[[training.TrainState, np.ndarray], np.ndarray]:
    """Function (state, rows [n]) -> embeddings float32 [n, D]; compiled once, on all devices of the run."""
    count = len(run.devices)
    share = -(-run.config.eval.batch_size // count)
    step = training.parallel(
        lambda images, params, stats: training.embed_step(run.learner, params, stats, images),
        in_axes=(0, None, None),
        out_axes=0,
        devices=run.devices,
    )

    def embed(state: training.TrainState, rows: np.ndarray) -> np.ndarray:
        batches = [rows[i : i + count * share] for i in range(0, len(rows), count * share)]
        found = []
        for pixels in tqdm(run.images.read(batches), "embedding", len(batches), leave=False, unit="batch"):
            full = np.pad(pixels, ((0, count * share - len(pixels)), (0, 0), (0, 0), (0, 0)))
            output = np.asarray(step(full.reshape(count, share, *pixels.shape[1:]), *state[1:3]))
            found.append(output.reshape(count * share, -1)[: len(pixels)])
        return np.concatenate(found)

    return embed


def score(run: Run, embeddings: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """All metrics of the embeddings of some rows, as the configuration asks for them."""
    settings = run.config.eval
    return evaluate(
        embeddings,
        run.images.index.labels[rows],
        clusters_per_class=settings.clusters_per_class,
        kmeans_seeds=settings.kmeans_seeds,
    )


def table(rows: dict[str, dict[str, float]]) -> str:
    """Metrics of several embeddings, one line each, for a terminal."""
    columns = {"nmi": "NMI", "f1": "F1", "recall@1": "Recall@1"}
    lines = ["".join([f"{'':20}", *(f"{title:>10}" for title in columns.values())])]
    for name, row in rows.items():
        lines.append("".join([f"{name:20}", *(f"{row[key]:10.4f}" for key in columns)]))
    return "\n".join(lines)


def _claim(config: Config, workdir: Path, resume: bool) -> None:
    """Make the run's directory, or check that it holds this very run."""
    path = workdir / "config.json"
    if resume and not path.exists():
        raise RunError(f"{workdir} holds no run to resume: there is no config.json")
    if path.exists() and not resume:
        raise RunError(f"{workdir} holds a run; continue it with --resume or choose another --workdir")
    if resume:
        lines = configs.differences(configs.load(path), config)
        if changed := [line for line in lines if not line.startswith(MAY_CHANGE)]:
            raise RunError(f"{workdir} holds another run; it differs in {'; '.join(changed)}")
    workdir.mkdir(parents=True, exist_ok=True)
    configs.save(path, config)


def _open(config: Config, workdir: Path) -> Run:
    devices = _devices(config)
    images = open_images(config.data)
    learner, state = training.create(config, len(images.classes(config.data.train_on)))
    return Run(workdir, learner, state, images, devices, Checkpoints(workdir / "checkpoints"))


def _devices(config: Config) -> list:
    devices = jax.local_devices()
    count = config.train.devices or len(devices)
    if count > len(devices):
        raise RunError(f"train.devices is {count}, but this machine has {len(devices)}")
    batch = config.data.classes_per_batch * config.data.images_per_class
    if batch % count:
        raise RunError(f"the batch of {batch} can not be divided among {count} devices; set --train.devices")
    return devices[:count]


def _fit(run: Run, embed: Callable) -> None:
    """Steps up to `train.steps`, with logs, validation and checkpoints on the way."""
    config, settings = run.config, run.config.train
    first = step = int(run.state.step)
    recorder = history.History(run.workdir / "metrics.jsonl", keep_to=first)
    rows = run.images.rows("val") if run.validates else np.array([], int)
    advance = _advance(run, first)
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


def _advance(run: Run, first: int) -> Callable:
    """Function state -> (state, metrics [n]): the next steps, from either input path."""
    config, devices = run.config, run.devices
    shape = (config.data.classes_per_batch, config.data.images_per_class)
    table = sampling.class_table(run.images.index.labels, run.images.classes(config.data.train_on))
    if run.images.resident is not None:
        steps = partial(training.resident_steps, run.learner, config.train.steps_per_call)
        call = training.parallel(steps, in_axes=(None, None, None), devices=devices)
        pixels, table = training.replicate((np.asarray(run.images.resident), table), devices)
        return lambda state: call(state, pixels, table)

    call = training.parallel(partial(training.train_step, run.learner), in_axes=(None, 0, 0), devices=devices)
    draw = jax.jit(lambda step: sampling.sample(config.train.seed, step, table, *shape))
    drawn: list[np.ndarray] = []

    def rows() -> Iterator[np.ndarray]:
        for step in range(first, config.train.steps):
            indices, labels = jax.device_get(draw(step))
            drawn.append(labels)
            yield indices

    batches = run.images.read(rows())

    def advance(state):
        pixels = next(batches)
        shares = (x.reshape(len(devices), -1, *x.shape[1:]) for x in (pixels, drawn.pop(0)))
        state, metrics = call(state, *shares)
        return state, {name: value[None] for name, value in metrics.items()}

    return advance


def _restore_best(run: Run) -> None:
    step = run.checkpoints.best_step() if run.validates else run.checkpoints.steps()[-1]
    run.state, _ = run.checkpoints.restore(run.state, step)


def _finish(run: Run, embed: Callable) -> dict[str, Any]:
    """Score the test classes once with the chosen checkpoint, beside the baselines; write results and report."""
    _restore_best(run)
    rows = run.images.rows("test")
    embeddings = embed(run.state, rows)
    pixels = next(run.images.read([rows]))
    rivals = {"raw pixels (8 x 8)": pixels_as_features(pixels)}
    if run.config.model.weights:
        rivals["frozen features"] = _frozen_features(run, rows)
    results = {
        "step": int(run.state.step),
        "test": score(run, embeddings, rows),
        "baselines": {name: score(run, features, rows) for name, features in rivals.items()},
    }
    _write_json(run.workdir / "results.json", results)
    labels = run.images.index.labels[rows]
    classes = len(np.unique(labels)) * run.config.eval.clusters_per_class
    report.write(
        run.workdir / "report.html",
        config=configs.to_dict(run.config),
        history=history.read(run.workdir / "metrics.jsonl"),
        results=results["test"],
        baselines=list(results["baselines"].items()),
        embeddings=embeddings,
        labels=labels,
        clusters=cluster(embeddings, classes),
        images=pixels,
        class_names=run.images.index.class_names,
    )
    return results


def pixels_as_features(images: np.ndarray, side: int = 8) -> np.ndarray:
    """Mean colours on a grid: uint8 [n, S, S, 3] -> float32 [n, side * side * 3] in [0, 1]."""
    edges = np.linspace(0, images.shape[1], side + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(images, edges, axis=1, dtype=np.float32), edges, axis=2)
    counts = np.diff(np.append(edges, images.shape[1]))
    areas = (counts[:, None] * counts[None, :])[None, :, :, None]
    return (sums / areas / 255).reshape(len(images), -1).astype(np.float32)


def _frozen_features(run: Run, rows: np.ndarray) -> np.ndarray:
    """Pooled features of the pretrained backbone before any training."""
    model = replace(run.config.model, head="none", dropout=0.0)
    config = replace(run.config, model=model, loss=configs.Loss(), optim=configs.Optim())
    learner, state = training.create(config, 1)
    state, _ = training.load_weights(config, state)
    return embedder(replace(run, learner=learner))(state, rows)


class _Progress:
    """A progress bar, and the check that every step's numbers are finite."""

    def __init__(self, config: Config, first: int):
        self._batch = config.data.classes_per_batch * config.data.images_per_class
        self._log_every = config.train.log_every
        self._bar = tqdm(total=config.train.steps, initial=first, unit="step", desc="training")
        self.restart_clock()

    def __enter__(self) -> "_Progress":
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

    def __enter__(self) -> "_Sigterm":
        self.received = False
        self._before = signal.signal(signal.SIGTERM, self._raise_flag)
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _raise_flag(self, *_) -> None:
        self.received = True


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
