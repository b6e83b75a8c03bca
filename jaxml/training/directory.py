"""A run's directory before training: looked at first, and claimed only when nothing can refuse the run any more."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

from jaxml import config as configs
from jaxml.config import Config
from jaxml.errors import RunError
from jaxml.training import history, lock, provenance
from jaxml.training.checkpoint import Checkpoints

STARTED = (
    "config.json",
    "weights.json",
    "teacher.json",
    "seen.json",
    "data.jsonl",
    "metrics.jsonl",
    "writers.json",
    "checkpoints",
    "triplets",
    "profile",
    "tensorboard",
    "wandb",
)
"""What is in a directory whose run has saved no checkpoint yet, beside the lock."""
FINISHED = ("damaged", "results.json", "report.html")
"""What only a run with checkpoints leaves."""
PART = re.compile(r"\.[0-9a-f]{32}\.part$")
"""End of the name of a file that a killed process did not finish."""


class Directory:
    """The directory of the run that this process is to train.

    Args:
        path: the directory, which need not exist.
        resume: whether the run in it is to go on.
        go_on: how errors say that the run in it can go on.
        held: keeps the lock until it is closed.
    """

    def __init__(self, path: Path, resume: bool, go_on: str, held: ExitStack):
        self.path, self._resume, self._go_on, self._held = path, resume, go_on, held
        self._locked = False
        self._checkpoints = Checkpoints(path / "checkpoints")

    def look(self, config: Config) -> tuple[Config, int | None]:
        """Check that the run may be trained here, and change nothing but the lock of a directory that exists.

        Returns:
            The configuration, and the step of the newest checkpoint, for processes that do not see the directory.

        Raises:
            RunError: the directory cannot be written, holds another run or one that has come further than it is to
                go, has lost its checkpoints or is in use, or there is no run in it to resume.
        """
        self._check_folder()
        if self._resume and not (self.path / "config.json").exists():
            raise RunError(
                f"{self.path} holds no run to resume: there is no config.json; leave out --resume to start one"
            )
        # Before there is a lock, for by it a directory is known in which a run has begun.
        if not self._resume and not (self.path / lock.NAME).exists():
            self._check_free()
        if self.path.is_dir():
            self._lock()
        if self._resume:
            saved = configs.load(self.path / "config.json")
            if different := provenance.changed(saved, config)[0]:
                raise RunError(f"{self.path} holds another run; it differs in {'; '.join(different)}")
            self._check_not_lost(config)
        steps = self._checkpoints.steps()
        if steps and config.train.steps < steps[-1]:
            raise RunError(
                f"--train.steps is {config.train.steps}, but the run in {self.path} has come to step {steps[-1]}; give "
                f"{steps[-1]} or more"
            )
        return config, steps[-1] if steps else None

    def claim(self, config: Config) -> None:
        """Make the directory if need be, lock it, and write the run's configuration.

        Raises:
            RunError: another process was faster.
        """
        self._lock()
        if not self._resume:
            self._clear()
        configs.save(self.path / "config.json", config)

    def _lock(self) -> None:
        if not self._locked:
            self._held.enter_context(lock.locked(self.path))
            self._locked = True
            if not self._resume:
                self._check_free()

    def _check_folder(self) -> None:
        """That the path is a folder in which this user may write, or can become one."""
        place = next(p for p in (self.path.absolute(), *self.path.absolute().parents) if os.path.lexists(p))
        if not place.is_dir():
            raise RunError(f"--workdir {self.path} cannot be a folder: {place} is something else")
        if not os.access(place, os.W_OK | os.X_OK):
            raise RunError(
                f"--workdir {self.path}: {place} cannot be written by you; choose another --workdir"
            )

    def _check_free(self) -> None:
        """That no run is there, or only what a start leaves that has saved nothing: that is used again."""
        found = self._contents()
        if not found & {*STARTED, *FINISHED}:
            return
        if "config.json" not in found:
            names = ", ".join(sorted(found & {*STARTED, *FINISHED}))
            raise RunError(f"{self.path} holds {names}, but no config.json; choose another --workdir")
        # Without a lock the configuration is somebody's who has written it.
        failed = found <= {*STARTED, lock.NAME} and lock.NAME in found and not self._checkpoints.steps()
        if not failed or self._came_past_a_save(configs.load(self.path / "config.json")):
            raise RunError(f"{self.path} holds a run; {self._go_on}, or choose another --workdir")

    def _contents(self) -> set[str]:
        """Names in the directory; those of files that a killed process was writing without what was added to them."""
        return {PART.sub("", p.name) for p in self.path.iterdir()} if self.path.is_dir() else set()

    def _came_past_a_save(self, config: Config) -> bool:
        """Whether the record goes on after a step that must have been saved."""
        train = config.train
        logged = max((row["step"] for row in history.read(self.path / "metrics.jsonl")), default=0)
        validated = train.eval_every if config.data.train_on == "train" else train.steps
        return logged > min(train.save_every, validated, train.steps)

    def _check_not_lost(self, config: Config) -> None:
        """Never start over by ourselves where checkpoints must have been."""
        if self._checkpoints.steps():
            return
        if self._checkpoints.damaged() or self._came_past_a_save(config):
            logged = max(row["step"] for row in history.read(self.path / "metrics.jsonl"))
            raise RunError(
                f"no sound checkpoint in {self._checkpoints.directory}, but the run has come to step {logged}; put one "
                f"back, or start a new run in another --workdir"
            )

    def _clear(self) -> None:
        """Remove what an earlier start has left, which `_check_free` has looked at."""
        for path in self.path.iterdir():
            if PART.sub("", path.name) not in STARTED:
                continue
            if path.name in ("triplets", "tensorboard"):
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()
