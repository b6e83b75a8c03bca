"""A run from its configuration to its results, all in one directory.

config.json      what was asked for         weights.json     where pretrained weights came from
data.jsonl       which images it saw        metrics.jsonl    one line per logged step and validation
checkpoints/     the newest two, the best   results.json     metrics of test classes
run.lock         who trains here            report.html      all of it to look at
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxml import config as configs
from jaxml.config import Config
from jaxml.data.images import Images, open_images
from jaxml.files import write_json
from jaxml.training import distributed, health, history, provenance
from jaxml.training import optimizer as optim
from jaxml.training import step as training
from jaxml.training.checkpoint import Checkpoints
from jaxml.training.lock import locked
from jaxml.training.loop import fit
from jaxml.training.preemption import Preempted, RunError, StopSignals
from jaxml.training.provenance import MAY_CHANGE
from jaxml.training.scoring import (
    embedder,
    frozen_features,
    pixel_embedder,
    pixels_as_features,
    score,
    table,
    write_results,
)

__all__ = [
    "MAY_CHANGE",
    "Preempted",
    "Run",
    "RunError",
    "embedder",
    "frozen_features",
    "learn",
    "load",
    "load_network",
    "open_run",
    "pixels_as_features",
    "score",
    "table",
    "train",
]

CREATED = ("checkpoints", "damaged", "data.jsonl", "metrics.jsonl", "results.json", "report.html", "triplets")
"""What a run creates in its directory after config.json."""


@dataclass
class Run:
    """A run that is open: what it learns with, from and on."""

    workdir: Path
    learner: training.Learner
    state: training.TrainState
    images: Images
    devices: list
    checkpoints: Checkpoints
    signals: StopSignals = field(default_factory=StopSignals)

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self.learner.config

    @property
    def validates(self) -> bool:
        """Whether validation classes are left to choose the best step by."""
        return self.config.data.train_on == "train"

    @cached_property
    def pictures(self) -> provenance.Pictures:
        """What the run says of its data set."""
        return provenance.Pictures.of(self.images.index)

    def check(self, step: int, meta: dict[str, Any], other_data: bool = False) -> None:
        """RunError unless a checkpoint is this run's, of the same pictures or, if so allowed, of others."""
        provenance.check_config(step, meta, self.config)
        if not other_data:
            provenance.check_pictures(step, meta, self.pictures, self.workdir)


def train(
    config: Config, workdir: str | Path, *, resume: bool = False, other_data: bool = False
) -> dict[str, Any]:
    """Train, score the test classes, write the report; returns what `results.json` holds. Raises as `learn` does."""
    with ExitStack() as held, _guarded(config) as signals:
        return _finish(*_learn(config, Path(workdir), resume, other_data, signals, held))


def learn(
    config: Config, workdir: str | Path, *, resume: bool = False, other_data: bool = False
) -> tuple[Run, Callable]:
    """Train only: the run at its last step, and its `embedder`. Nothing of the test classes is looked at.

    With `other_data` a run may be resumed on other pictures than those it has seen.

    Raises:
      RunError: the directory holds another run, another process trains there, `resume` finds no run there or one that
        saw other pictures, the loss is no longer finite, or memory ran out.
      Preempted: SIGTERM, Ctrl-C or SIGHUP came; the state is saved.
    """
    with ExitStack() as held, _guarded(config) as signals:
        return _learn(config, Path(workdir), resume, other_data, signals, held)


def _learn(
    config: Config, workdir: Path, resume: bool, other_data: bool, signals: StopSignals, held: ExitStack
) -> tuple[Run, Callable]:
    config = distributed.on_main(partial(_claim, config, workdir, resume, held))
    run = replace(open_run(config, workdir, to_train=True), signals=signals)
    distributed.on_main(partial(_check_not_lost, run))
    if distributed.on_main(run.checkpoints.steps):
        check = partial(run.check, other_data=other_data)
        run.state, meta = distributed.on_main(partial(run.checkpoints.restore_newest, run.state, check))
        step = int(run.state.step)
        signals.saved = f"step {step} is saved"
        distributed.say(f"resuming at step {step} of {config.train.steps}")
        _say_changes(step, meta, config)
    elif config.model.weights:
        run.state, weights = training.load_weights(config, run.state)
        distributed.on_main(partial(write_json, workdir / "weights.json", weights))
    distributed.on_main(partial(_record, run))
    distributed.say(optim.table(config.optim, run.state.params))
    embed = embedder(run)
    fit(run, embed)
    return run, embed


@contextmanager
def _guarded(config: Config) -> Iterator[StopSignals]:
    """Signals to stop and lack of memory end in one line."""
    devices = (config.train.devices or jax.local_device_count()) * jax.process_count()
    with StopSignals(alone=jax.process_count() == 1) as signals, health.explain_memory(config, devices):
        yield signals


def load(workdir: str | Path, *, data_root: str = "", other_data: bool = False) -> Run:
    """A finished or interrupted run with its best checkpoint (the last, where nothing was validated).

    `data_root` is where the data set lies now, if it has moved; `other_data` allows other pictures than the run saw.
    The run may be training meanwhile, and nothing in its directory is changed.

    Raises:
      RunError: there is no run, it has saved nothing yet, or the checkpoint is of another configuration or of other
        pictures; lists what differs.
    """
    workdir = Path(workdir)
    config = _saved_config(workdir)
    data = replace(config.data, root=data_root or config.data.root)
    run = open_run(replace(config, data=data, train=replace(config.train, devices=0)), workdir)
    if not run.checkpoints.steps():
        raise RunError(f"{workdir} has no checkpoint yet")
    run.state, meta = _restore_best(run, partial(run.check, other_data=other_data))
    _say_changes(int(run.state.step), meta, config)
    return run


def load_network(workdir: str | Path) -> tuple[Config, Callable[[np.ndarray], np.ndarray]]:
    """A run's configuration, and its network: pixels uint8 [n, S, S, 3] -> embeddings float32 [n, D].

    The checkpoint is the one that `load` takes, S is `data.stored_size`. Needs the run's directory only: its data set
    may be gone.

    Raises:
      RunError: there is no run, it has saved nothing yet, or the checkpoint is of another configuration.
    """
    workdir = Path(workdir)
    config = _saved_config(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    if not checkpoints.steps():
        raise RunError(f"{workdir} has no checkpoint yet")
    # The shapes of a loss's parameters would need the number of classes; embedding needs neither.
    learner, state = training.create(replace(config, loss=configs.Loss(), optim=configs.Optim()), 1)
    best = config.data.train_on == "train"
    restore = checkpoints.restore_best if best else checkpoints.restore_newest
    check = partial(provenance.check_config, config=config)
    state, meta = restore(state._replace(opt_state=()), check, part=True)
    _say_changes(int(state.step), meta, config)
    return config, partial(pixel_embedder(learner, jax.local_devices()), state)


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


def _record(run: Run) -> None:
    """Write what the run learns with and from, now that nothing refuses it."""
    configs.save(run.workdir / "config.json", run.config)
    run.pictures.save(run.workdir)


def _say_changes(step: int, meta: dict[str, Any], config: Config) -> None:
    """Print the options that have changed since a checkpoint was saved, as some may."""
    if lines := provenance.changed(configs.from_dict(meta["config"]), config)[1]:
        distributed.say(f"changed since checkpoint {step} was saved: {'; '.join(lines)}")


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


def _saved_config(workdir: Path) -> Config:
    path = workdir / "config.json"
    if not path.exists():
        raise RunError(f"{workdir} holds no run: there is no config.json")
    return configs.load(path)


def open_run(config: Config, workdir: Path, to_train: bool = False) -> Run:
    """A run at step 0 with random parameters, whatever its directory holds."""
    devices = _devices(config, to_train)
    images = open_images(config.data, devices if to_train else ())
    learner, state = training.create(config, len(images.classes(config.data.train_on)))
    checkpoints = Checkpoints(workdir / "checkpoints", writer=to_train)
    return Run(workdir, learner, state, images, devices, checkpoints)


def _devices(config: Config, to_train: bool) -> list:
    """As many of this machine's devices as are asked for; only training has to divide its batch among them."""
    devices = jax.local_devices()
    count = config.train.devices or len(devices)
    if count > len(devices):
        raise RunError(f"train.devices is {count}, but this machine has {len(devices)}")
    batch = config.data.classes_per_batch * config.data.images_per_class
    if to_train and batch % (whole := count * jax.process_count()):
        raise RunError(
            f"the batch of {batch} can not be divided among {whole} devices; set --train.devices to a number that "
            f"divides it"
        )
    return devices[:count]


def _restore_best(run: Run, check: Callable) -> tuple[training.TrainState, dict[str, Any]]:
    """The checkpoint with the best score; the last, where nothing was validated."""
    restore = run.checkpoints.restore_best if run.validates else run.checkpoints.restore_newest
    return distributed.on_main(partial(restore, run.state, check))


def _finish(run: Run, embed: Callable) -> dict[str, Any]:
    """Score the test classes once with the chosen checkpoint, beside the baselines; write results and report."""
    # Its pictures are those of now, or others that were allowed when it was resumed.
    run.state, _ = _restore_best(run, partial(run.check, other_data=True))
    rows = run.images.rows("test")
    embeddings = embed(run.state, rows)
    health.warn_collapsed(embeddings, "test images")
    frozen = frozen_features(run, rows) if run.config.model.weights else None
    return distributed.on_main(partial(write_results, run, rows, embeddings, frozen))
