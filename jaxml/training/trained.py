"""The network of a finished or interrupted run, from its directory alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxml import config as configs
from jaxml import models
from jaxml.config import Config
from jaxml.errors import RunError
from jaxml.training import distributed, provenance
from jaxml.training.checkpoint import Checkpoints
from jaxml.training.learner import Network, TrainState


def load_variables(workdir: str | Path) -> tuple[Network, TrainState]:
    """A run's network, and its state without that of the loss and of the optimiser.

    The checkpoint is the one that `run.load` takes. Needs the run's directory only: its data set may be gone.

    Raises:
        RunError: there is no run, it has saved nothing yet, or the checkpoint is of another configuration.
    """
    network, state, meta = read_variables(workdir)
    say_changes(int(state.step), meta, network.config)
    return network, state


def read_variables(workdir: str | Path) -> tuple[Network, TrainState, dict[str, Any]]:
    """What `load_variables` returns, and the meta data of the checkpoint; nothing is printed."""
    workdir, config = Path(workdir), saved_config(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    check_saved(checkpoints, workdir)
    module = models.build(config.model)
    variables = models.shapes(module, config.data.size)
    variables.setdefault("batch_stats", {})
    averages = variables if config.train.ema else None
    blank = TrainState(jnp.int32(0), variables["params"], variables["batch_stats"], (), averages)
    best = config.data.train_on == "train"
    restore = checkpoints.restore_best if best else checkpoints.restore_newest
    state, meta = restore(blank, partial(provenance.check_config, config=config), part=True)
    return Network(config, module), state, meta


def say_changes(step: int, meta: dict[str, Any], config: Config) -> None:
    """Print the options that have changed since a checkpoint was saved, as some may."""
    if lines := provenance.changed(configs.from_dict(meta["config"]), config)[1]:
        distributed.say(f"changed since checkpoint {step} was saved: {'; '.join(lines)}")


def saved_config(workdir: str | Path) -> Config:
    """The configuration of the run in a directory; RunError if there is none."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise RunError(f"{workdir} holds no run: there is no config.json")
    return configs.load(path)


def check_saved(checkpoints: Checkpoints, workdir: Path) -> None:
    """RunError if a run has saved nothing yet."""
    if not checkpoints.steps():
        raise RunError(f"{workdir} has no checkpoint yet")
