"""A run's network as its directory holds it: its configuration, and the parameters of its best checkpoint."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jaxml import config as configs
from jaxml.config import Config
from jaxml.errors import RunError
from jaxml.training import provenance
from jaxml.training.checkpoint import Checkpoints
from jaxml.training.learner import Learner, TrainState, create


def configuration(workdir: str | Path) -> Config:
    """The configuration that a run's directory holds; RunError if it holds no run."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise RunError(f"{workdir} holds no run: there is no config.json")
    return configs.load(path)


def checkpoints(workdir: str | Path) -> Checkpoints:
    """The checkpoints of a run, to be read; RunError if there is none."""
    found = Checkpoints(Path(workdir) / "checkpoints")
    if not found.steps():
        raise RunError(f"{workdir} has no checkpoint yet")
    return found


def untrained(config: Config) -> tuple[Learner, TrainState]:
    """The network that a configuration describes, with fresh parameters and without those of a loss or an optimiser."""
    # The shapes of a loss's parameters would need the number of classes; embedding needs neither.
    learner, state = create(replace(config, loss=configs.Loss(), optim=configs.Optim()), 1)
    return learner, state._replace(opt_state=())


def restore(workdir: str | Path, config: Config, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """An `untrained` state with the parameters of the best checkpoint (the last, where nothing was validated).

    Returns the checkpoint's meta data as well.

    Raises:
        RunError: the run has saved nothing yet, or the checkpoint is of another configuration.
        CheckpointError: no checkpoint is sound, or they are of another network.
    """
    found = checkpoints(workdir)
    restore = found.restore_best if config.data.train_on == "train" else found.restore_newest
    return restore(state, partial(provenance.check_config, config=config), part=True)
