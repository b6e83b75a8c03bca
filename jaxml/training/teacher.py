"""The teacher of a run that learns from the embeddings of another, finished one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxml import config as configs
from jaxml import distributed
from jaxml.config import Config
from jaxml.errors import CheckpointError, RunError
from jaxml.files import expand
from jaxml.training import saved
from jaxml.training.checkpoint import flatten
from jaxml.training.learner import Network, TrainState


@dataclass(frozen=True)
class Teacher:
    """A finished run's network with its best parameters."""

    config: Config
    """Of its run."""
    network: Network
    """Its network, with the crops of the run that learns from it."""
    variables: dict[str, Any]
    """Its parameters and statistics, on the host."""
    step: int
    """Of its checkpoint."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells it from another teacher: its step, and the SHA-256 of its network's options and parameters."""
        # Of the options those that are not the defaults, so that later versions may have more of them. Where pretrained
        # weights lie may change; what became of them is in the parameters.
        options = {
            name: value
            for name, value in configs.changes(Config(), self.config).items()
            if name == "data.size" or (name.startswith("model.") and name != "model.weights")
        }
        digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
        for name, array in sorted(flatten(self.variables).items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.asarray(array).tobytes())
        return {"step": self.step, "sha256": digest.hexdigest()}

    def record(self, own: Config) -> dict[str, Any]:
        """What `teacher.json` holds: where the teacher lies, which it is, and the configuration of its run."""
        return {"teacher": own.distill.teacher, **self.identity, "config": configs.to_dict(self.config)}


def untrained(config: Config) -> tuple[Network, dict[str, Any]]:
    """The network of a run's teacher as the run shows it its crops, and the shapes of its variables.

    Raises:
        RunError: there is no run in the directory `distill.teacher`.
    """
    with _named():
        found = distributed.on_main(lambda: saved.configuration(_folder(config)))
    network, shapes = saved.untrained(found)
    return _shown(network, config), _variables(shapes)


def open_teacher(config: Config) -> Teacher:
    """The teacher of a run.

    Raises:
        RunError: in the directory `distill.teacher` there is no run, or one that is not finished or cannot be read.
    """
    folder = _folder(config)
    with _named():
        found = distributed.on_main(lambda: saved.configuration(folder))
        network, shapes = saved.untrained(found)
        state, _ = distributed.on_main(lambda: saved.restore(folder, found, shapes))
        last = distributed.on_main(lambda: saved.checkpoints(folder).steps()[-1])
        if last < found.train.steps:
            raise RunError(f"{folder} has come to step {last} of {found.train.steps}; let it finish first")
    return Teacher(found, _shown(network, config), jax.device_get(_variables(state)), int(state.step))


def _folder(config: Config) -> Path:
    return expand(config.distill.teacher, "--distill.teacher")


@contextmanager
def _named() -> Iterator[None]:
    """Errors of the teacher's directory name the option that gave it."""
    try:
        yield
    except (RunError, CheckpointError) as error:
        raise RunError(f"--distill.teacher must be the directory of a finished run: {error}") from error


def _shown(teacher: Network, own: Config) -> Network:
    """A teacher's network with the augmentation of the run that learns from it, but its own size of images."""
    data = replace(own.data, size=teacher.config.data.size)
    return replace(teacher, config=replace(teacher.config, data=data))


def _variables(state: TrainState) -> dict[str, Any]:
    """Parameters and statistics by which the teacher embeds: its averages, where it has some."""
    params, batch_stats = state.network
    return {"params": params, "batch_stats": batch_stats}
