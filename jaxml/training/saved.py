"""A run's network as its directory holds it: its configuration, and the parameters of its best checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxml import config as configs
from jaxml import distributed, models
from jaxml.config import Config
from jaxml.errors import RunError
from jaxml.training import provenance
from jaxml.training.checkpoint import Checkpoints
from jaxml.training.learner import Network, TrainState


def load_variables(workdir: str | Path) -> tuple[Network, TrainState]:
    """A run's network, and its state without that of the loss and of the optimiser.

    The checkpoint is the one that `run.load` takes. Needs the run's directory only: its data set may be gone.

    Raises:
        RunError: there is no run, it has saved nothing yet, or the checkpoint is of another configuration.
    """
    config = configuration(workdir)
    network, shapes = untrained(config)
    state, meta = restore(workdir, config, shapes)
    say_changes(int(state.step), meta, config)
    return network, state


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


def untrained(config: Config) -> tuple[Network, TrainState]:
    """The network that a configuration describes, and the shapes of its state without that of loss and optimiser."""
    module = models.build(config.model)
    variables = models.shapes(module, config.data.size)
    variables.setdefault("batch_stats", {})
    averages = variables if config.train.ema else None
    blank = TrainState(jnp.int32(0), variables["params"], variables["batch_stats"], (), averages)
    return Network(config, module), blank


def restore(workdir: str | Path, config: Config, shapes: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state of these shapes from the best checkpoint (the last, where nothing was validated), and its meta data.

    Raises:
        RunError: the run has saved nothing yet, or the checkpoint is of another configuration.
        CheckpointError: no checkpoint is sound, or they are of another network.
    """
    found = checkpoints(workdir)
    restore = found.restore_best if config.data.train_on == "train" else found.restore_newest
    return restore(shapes, partial(provenance.check_config, config=config), part=True)


def say_changes(step: int, meta: dict[str, Any], config: Config) -> None:
    """Print the options that have changed since a checkpoint was saved, as some may."""
    if lines := provenance.changed(configs.from_dict(meta["config"]), config)[1]:
        distributed.say(f"changed since checkpoint {step} was saved: {'; '.join(lines)}")
