"""Checkpoints of a run: whole or not at all, the newest two and the best kept, damaged ones set aside."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxml.errors import CheckpointError, DamagedCheckpoint, MissingCheckpoint
from jaxml.training import checkpoint_folder

log = logging.getLogger(__name__)

STEP = re.compile(r"0|[1-9][0-9]{0,17}")
"""Names of checkpoints."""
UNFINISHED = re.compile(r"[0-9]+\.(saving|deleting|(saving\.)?orbax-checkpoint-tmp(-[0-9]+)?)")
"""Names under which a checkpoint is written or deleted; a process that is killed meanwhile leaves them behind."""

Check = Callable[[int, dict[str, Any]], None]
"""Function (step, meta) that refuses a checkpoint by raising an error."""


class Checkpoints:
    """The checkpoints of one run, in `directory/STEP`.

    The newest two and the one with the highest score are kept. A folder that has a number for its name is whole at any
    moment, for it is written under another name, and renamed before it is deleted; so any number of processes may read
    while one saves. Reading changes nothing on disk, but for the `writer`, the process that trains: it moves what is
    damaged to `damaged/` beside the folder. Of several processes of one run only the first may use it (see
    `jaxml.distributed`).
    """

    def __init__(self, directory: str | Path, *, writer: bool = False):
        self.directory = Path(directory).absolute()
        self.writer = writer

    def steps(self) -> list[int]:
        """Steps that can be restored, oldest first; CheckpointError if the folder is there but cannot be read."""
        return sorted(int(name) for name in self._folders() if STEP.fullmatch(name))

    def save(self, step: int, state: Any, *, score: float | None, meta: dict[str, Any]) -> None:
        """Write `state` (a tree of arrays) and `meta` (JSON); `score` ranks it, None or NaN ranks last.

        A checkpoint of the same step is replaced.

        Raises:
            CheckpointError: an array is not finite, there is less free space than twice the checkpoint's size, or the
                write failed; earlier checkpoints are untouched.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        arrays = flatten(jax.device_get(state))
        if bad := [name for name, x in arrays.items() if not _finite(x)]:
            raise CheckpointError(
                f"checkpoint {step} not written to {self.directory}: NaN or infinity in {', '.join(bad)}"
            )
        for name in self._folders():
            if UNFINISHED.fullmatch(name):
                shutil.rmtree(self.directory / name, ignore_errors=True)
        needed = 2 * sum(x.nbytes for x in arrays.values())
        if (free := shutil.disk_usage(self.directory).free) < needed:
            raise CheckpointError(
                f"no room for checkpoint {step} in {self.directory}: {needed / 2**20:.1f} MiB needed, "
                f"{free / 2**20:.1f} MiB free"
            )
        ranked = score if score is not None and math.isfinite(score) else None
        part = self.directory / f"{step}.saving"
        try:
            checkpoint_folder.write(part, arrays, {**meta, "score": ranked})
            self._delete(step)
            part.rename(self._folder(step))
        except Exception as error:
            reason = checkpoint_folder.reason(error)
            raise CheckpointError(f"checkpoint {step} not written to {self.directory}: {reason}") from error
        keep = {*self.steps()[-2:], self.best_step()}
        for old in set(self.steps()) - keep:
            self._delete(old)

    def best_step(self) -> int:
        """Step with the highest score, the newest of equals; the newest step where none has a score.

        Raises:
            CheckpointError: there is no checkpoint.
        """
        if not (ranked := self._ranked()):
            raise CheckpointError(f"no checkpoint in {self.directory}")
        return ranked[0]

    def restore(
        self, target: Any, step: int, *, part: bool = False, check: Check | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """State of the structure, shapes and dtypes of `target`, and its meta (with its score).

        With `part` the checkpoint may hold more than `target` asks for, such as the state of an optimiser. `check` may
        refuse the step by its meta before its arrays are compared with `target`.

        Raises:
            DamagedCheckpoint: files are missing or changed; names the step's folder and the arrays.
            MissingCheckpoint: it is not there, or was deleted or replaced meanwhile.
            CheckpointError: the state is that of another network or optimiser (the arrays that differ are listed), or
                a file cannot be read.
        """
        expected, folder = flatten(target), self._folder(step)
        with checkpoint_folder.reading(folder):
            meta = checkpoint_folder.read_meta(folder)
            stored = meta.pop("arrays")
            if check is not None:
                check(step, meta)
            names = expected if part else {*stored, *expected}
            if other := [name for name in sorted(names) if not _alike(stored.get(name), expected.get(name))]:
                where = checkpoint_folder.named(folder)
                raise CheckpointError(
                    f"{where} is of another network or optimiser; arrays that differ: {other}"
                )
            arrays = checkpoint_folder.read_arrays(folder, stored)
        return jax.tree.unflatten(jax.tree.structure(target), [arrays[name] for name in expected]), meta

    def restore_newest(
        self, target: Any, check: Check | None = None, *, part: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """`restore` of the newest sound checkpoint, with a warning for each one that is damaged.

        Raises:
            CheckpointError: there is none, none is sound, or one cannot be read.
        """
        return self._restore_first(lambda: self.steps()[::-1], target, check, part)

    def restore_best(
        self, target: Any, check: Check | None = None, *, part: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """The same for the sound checkpoint with the highest score, the newest of equals."""
        return self._restore_first(self._ranked, target, check, part)

    def damaged(self) -> list[str]:
        """Names of the checkpoints that were set aside."""
        return sorted(path.name for path in self._aside.iterdir()) if self._aside.is_dir() else []

    def _restore_first(
        self, order: Callable[[], list[int]], target: Any, check: Check | None, part: bool
    ) -> tuple[Any, dict[str, Any]]:
        damaged: set[int] = set()
        # Listed anew each time, for the process that trains may have gone on.
        while steps := [step for step in order() if step not in damaged]:
            try:
                return self.restore(target, steps[0], part=part, check=check)
            except MissingCheckpoint:
                continue
            except DamagedCheckpoint as error:
                damaged.add(steps[0])
                moved = f"; moved to {self._set_aside(steps[0])}" if self.writer else ""
                log.warning("%s%s, trying another one", error, moved)
        raise CheckpointError(
            f"no sound checkpoint in {self.directory}; start a new run in another folder, or put one back"
        )

    def _ranked(self) -> list[int]:
        """Steps, the best first."""
        return sorted(self.steps(), key=lambda step: (self._score(step), step), reverse=True)

    def _score(self, step: int) -> float:
        folder = self._folder(step)
        try:
            with checkpoint_folder.reading(folder):
                score = checkpoint_folder.read_meta(folder)["score"]
        except (DamagedCheckpoint, MissingCheckpoint):
            return -math.inf
        return -math.inf if score is None else score

    def _folder(self, step: int) -> Path:
        return self.directory / str(step)

    def _folders(self) -> list[str]:
        """Names of all folders in the directory, which need not exist."""
        try:
            with os.scandir(self.directory) as entries:
                return [entry.name for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise checkpoint_folder.unreadable(error) from error

    def _delete(self, step: int) -> None:
        """Remove a checkpoint, if there is one, under a name that readers do not look at."""
        if self._folder(step).exists():
            gone = self._folder(step).rename(self.directory / f"{step}.deleting")
            shutil.rmtree(gone, ignore_errors=True)

    @property
    def _aside(self) -> Path:
        return self.directory.parent / "damaged"

    def _set_aside(self, step: int) -> Path:
        aside = self._aside
        aside.mkdir(exist_ok=True)
        name = next(
            n for i in range(10_000) if not (n := aside / (f"{step}-{i}" if i else str(step))).exists()
        )
        return self._folder(step).rename(name)


def flatten(tree: Any) -> dict[str, Any]:
    """Arrays by path, in the tree's own order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _finite(array: Any) -> bool:
    return not jnp.issubdtype(array.dtype, jnp.inexact) or bool(np.isfinite(array).all())


def _alike(stored: dict[str, Any] | None, array: Any) -> bool:
    if stored is None or array is None:
        return False
    return stored["shape"] == list(array.shape) and stored["dtype"] == str(array.dtype)
