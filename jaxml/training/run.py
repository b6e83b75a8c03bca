"""A run that is open: its configuration, network, state, images and checkpoints.

Its directory holds

config.json      what was asked for         weights.json     where pretrained weights came from
data.jsonl       which images it saw        metrics.jsonl    one line per logged step and validation
checkpoints/     the newest two, the best   results.json     metrics of test classes
run.lock         who trains here            report.html      all of it to look at

and, where there is something to keep,

teacher.json     which run it learned from
seen.json        which classes of its results earlier networks have learned
writers.json     the names of its records at services, under which these go on when it resumes
triplets/        the lists of triplets that it was shown (train.mode input_triplets)
damaged/         checkpoints that were set aside
profile/         what jax.profiler recorded
tensorboard/     event files
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxml import config as configs
from jaxml import distributed
from jaxml.config import Config
from jaxml.data.images import Images, open_images
from jaxml.errors import Interrupted, RunError
from jaxml.progress import Progress
from jaxml.training import class_weights, provenance, saved, start
from jaxml.training.checkpoint import Check, Checkpoints
from jaxml.training.devices import parallel
from jaxml.training.learner import Learner, Network, TrainState, create
from jaxml.training.preemption import StopSignals
from jaxml.training.step import embed_step
from jaxml.training.teacher import Teacher, open_teacher


@dataclass
class Run:
    """A run that is open: what it learns with, from and on."""

    workdir: Path
    learner: Learner
    state: TrainState
    images: Images
    devices: list[Any]
    checkpoints: Checkpoints
    signals: StopSignals = field(default_factory=StopSignals)
    teacher: Teacher | None = None
    """Whom it learns from; None also where it does not train."""

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self.learner.config

    @property
    def validates(self) -> bool:
        """Whether validation classes are left to choose the best step by."""
        return self.config.data.train_on == "train"

    @property
    def reported(self) -> str:
        """The part that the run's results are of: test, or where there are no test classes the next best."""
        if len(self.images.parts["test"]):
            return "test"
        return "val" if self.validates else self.config.data.train_on

    def validates_at(self, step: int) -> bool:
        """Whether the validation classes are clustered after this step."""
        train = self.config.train
        return self.validates and (step >= train.steps or step % train.eval_every == 0)

    @cached_property
    def pictures(self) -> provenance.Pictures:
        """The images of the run's data set, by name, label, box and hash."""
        return provenance.Pictures.of(self.images.index)

    @property
    def meta(self) -> dict[str, Any]:
        """The meta data of its checkpoints."""
        teacher = self.teacher.identity if self.teacher else None
        return provenance.meta(self.config, self.pictures, teacher)

    def check(self, step: int, meta: dict[str, Any], other_data: bool = False) -> None:
        """RunError unless a checkpoint is this run's, of the same pictures or, if so allowed, of others."""
        provenance.check_config(step, meta, self.config)
        if not other_data:
            provenance.check_pictures(step, meta, self.pictures, self.workdir)

    def check_to_resume(self, step: int, meta: dict[str, Any], other_data: bool = False) -> None:
        """The same, and RunError also if the checkpoint has learned from another teacher than the run has now."""
        self.check(step, meta, other_data)
        provenance.check_teacher(step, meta, self.meta.get("teacher"))

    def restore_best(self, check: Check) -> dict[str, Any]:
        """Take the state with the best score, or the last where nothing was validated; returns its meta data."""
        restore = self.checkpoints.restore_best if self.validates else self.checkpoints.restore_newest
        self.state, meta = distributed.on_main(partial(restore, self.state, check))
        return meta

    def embed(self, rows: np.ndarray, state: TrainState | None = None) -> np.ndarray:
        """Embeddings float32 [n, D] of images, given by their rows int [n], by a state or the run's own.

        Compiled once, for all devices of the run.

        Raises:
            Interrupted: a signal to stop came.
        """
        own, size = distributed.share(rows), -(-self.config.eval.batch_size // jax.process_count())
        batches = [own[i : i + size] for i in range(0, len(own), size)]
        parts = []
        with Progress("embedding", len(own), "image", hidden=not distributed.is_main()) as progress:
            for pixels in self.images.read(batches):
                if self.signals.received:
                    raise Interrupted
                parts.append(self._embed_pixels(state or self.state, pixels))
                progress.update(len(pixels))
        return distributed.gather(np.concatenate(parts), len(rows))

    @cached_property
    def _embed_pixels(self) -> Callable[[TrainState, np.ndarray], np.ndarray]:
        return pixel_embedder(self.learner, self.devices)


def pixel_embedder(network: Network, devices: list[Any]) -> Callable[[TrainState, np.ndarray], np.ndarray]:
    """Function (state, pixels uint8 [n, S, S, 3]) -> embeddings float32 [n, D], by batches of one shape."""
    count = len(devices)
    share = -(-network.config.eval.batch_size // (count * jax.process_count()))
    step = parallel(
        lambda images, params, stats: embed_step(network, params, stats, images),
        in_axes=(0, None, None),
        out_axes=0,
        devices=devices,
    )

    def embed(state: TrainState, pixels: np.ndarray) -> np.ndarray:
        parts = []
        for i in range(0, len(pixels), count * share):
            part = pixels[i : i + count * share]
            full = np.pad(part, ((0, count * share - len(part)), (0, 0), (0, 0), (0, 0)))
            output = np.asarray(step(full.reshape(count, share, *part.shape[1:]), *state.network))
            parts.append(output.reshape(count * share, -1)[: len(part)])
        return np.concatenate(parts)

    return embed


def open_run(config: Config, workdir: Path, to_train: bool = False) -> Run:
    """A run at step 0 with random parameters, whatever its directory holds.

    Raises:
        ValueError: an option names what there is not, or `to_train`, the run cannot be trained so; names it.
        RunError: as many devices are not there, or `to_train`, do not divide the batch, or there is no such teacher.
    """
    devices = _devices(config, to_train)
    teacher = open_teacher(config) if to_train and config.distill.teacher else None
    if to_train:
        start.check_network(config, devices, teacher)
        images = open_images(config.data, devices, partial(start.check_images, config))
    else:
        images = open_images(config.data)
    names = [images.index.class_names[label] for label in images.classes(config.data.train_on)]
    learner, state = create(config, len(names), class_weights=class_weights.of_classes(config.loss, names))
    if teacher:
        learner = replace(learner, teacher=teacher.network)
    checkpoints = Checkpoints(workdir / "checkpoints", writer=to_train)
    return Run(workdir, learner, state, images, devices, checkpoints, teacher=teacher)


def _devices(config: Config, to_train: bool) -> list[Any]:
    """As many of this machine's devices as are asked for; only training has to divide its batch among them."""
    devices = jax.local_devices()
    count = config.train.devices or len(devices)
    if count > len(devices):
        raise RunError(f"--train.devices is {count}, but this machine has {len(devices)}")
    if to_train:
        _check_division(config, count * jax.process_count())
    return devices[:count]


def _check_division(config: Config, devices: int) -> None:
    """That so many devices can divide the batch."""
    images = config.data.images_per_class
    batch = config.data.classes_per_batch * images
    if batch % devices:
        raise RunError(
            f"the batch of {batch} cannot be divided among {devices} devices; set --train.devices to a number that "
            f"divides it"
        )
    if dict(config.loss.options).get("ring") and images > (most := batch // devices + 1):
        raise RunError(
            f"--loss.options ring takes at most {most} images of a class where {devices} devices divide a batch of "
            f"{batch}, but --data.images_per_class is {images}; give fewer, or fewer --train.devices"
        )


def load(workdir: str | Path, *, data_root: str = "", other_data: bool = False, feature_size: int = 0) -> Run:
    """A finished or interrupted run with its best checkpoint (the last, where nothing was validated).

    `data_root` is where the data set lies now, if it has moved; `other_data` allows other pictures than the run saw;
    `feature_size` takes the place of `eval.feature_size`, unless it is 0.
    The run may be training meanwhile, and nothing in its directory is changed.

    Raises:
        RunError: there is no run, it has saved nothing yet, or the checkpoint is of another configuration or of other
            pictures; lists what differs.
        ValueError: the embedding has fewer dimensions than `feature_size`.
    """
    workdir, config = Path(workdir), saved.configuration(workdir)
    saved.checkpoints(workdir)
    here = {
        "data.root": data_root or config.data.root,
        "eval.feature_size": feature_size or config.eval.feature_size,
        "train.devices": 0,
    }
    run = open_run(configs.override(config, here), workdir)
    meta = run.restore_best(partial(run.check, other_data=other_data))
    saved.say_changes(int(run.state.step), meta, config)
    return run
