"""Checkpoints of a run: whole or not at all, checked by SHA-256, last and best kept. Only this file knows orbax."""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, of another network, or could not be written."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint whose files are not what was written."""


class Checkpoints:
    """The checkpoints of one run, in `directory/STEP`.

    The newest two and the one with the highest score are kept. A save returns when all is on disk under its final
    name; a process killed before that leaves only a temporary folder, which no restore looks at. Of several processes
    only the first may use it (see `jaxml.distributed`).
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory).absolute()

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Opened when first used, which is on process 0 only."""
        # Orbax's own ranking reads unchecked files, so which to keep is decided here.
        options = ocp.CheckpointManagerOptions(
            create=False,  # orbax will not where one of several processes writes
            enable_async_checkpointing=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes={0}),
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        return ocp.CheckpointManager(self.directory, options=options)

    def steps(self) -> list[int]:
        """Steps that can be restored, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, *, score: float | None, meta: dict[str, Any]) -> None:
        """Write `state` (a tree of arrays) and `meta` (JSON); `score` ranks it, None or NaN ranks last.

        A checkpoint of the same step is replaced.

        Raises:
          CheckpointError: an array is not finite, there is less free space than twice the checkpoint's size, or the
            write failed; earlier checkpoints are untouched.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        arrays = _flatten(jax.device_get(state))
        if bad := [name for name, x in arrays.items() if not _finite(x)]:
            raise CheckpointError(
                f"checkpoint {step} not written to {self.directory}: NaN or infinity in {', '.join(bad)}"
            )
        # Not on opening, as orbax would: another process may be saving here while this one only reads.
        for left_over in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left_over, ignore_errors=True)
        needed = 2 * sum(x.nbytes for x in arrays.values())
        if (free := shutil.disk_usage(self.directory).free) < needed:
            raise CheckpointError(
                f"no room for checkpoint {step} in {self.directory}: {needed / 2**20:.1f} MiB needed, "
                f"{free / 2**20:.1f} MiB free"
            )
        ranked = score if score is not None and math.isfinite(score) else None
        meta = {**meta, "score": ranked, "arrays": {name: _describe(x) for name, x in arrays.items()}}
        meta["sha256"] = _sha256(_canonical(meta))
        args = ocp.args.Composite(state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta))
        try:
            if step in self.steps():
                self._manager.delete(step)
            with _quiet_orbax():
                self._manager.save(step, args=args, force=True)
                self._manager.wait_until_finished()
        except Exception as error:
            reason = _line(error)
            raise CheckpointError(f"checkpoint {step} not written to {self.directory}: {reason}") from error
        keep = {*self.steps()[-2:], self.best_step()}
        for old in set(self.steps()) - keep:
            self._manager.delete(old)

    def best_step(self) -> int:
        """Step with the highest score, the newest of equals; the newest step where none has a score.

        Raises:
          CheckpointError: there is no checkpoint.
        """
        if not self.steps():
            raise CheckpointError(f"no checkpoint in {self.directory}")
        return self._ranked()[-1]

    def _ranked(self) -> list[int]:
        return sorted(self.steps(), key=lambda step: (self._score(step), step))

    def _score(self, step: int) -> float:
        try:
            score = self._meta(step)["score"]
        except DamagedCheckpoint:
            return -math.inf
        return -math.inf if score is None else score

    def _meta(self, step: int) -> dict[str, Any]:
        where = f"checkpoint {step} in {self.directory / str(step)}"
        try:
            with _quiet_orbax():
                meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
                    "meta"
                ]
            intact = meta.pop("sha256") == _sha256(_canonical(meta))
        except Exception as error:
            raise DamagedCheckpoint(f"{where} is damaged: meta data unreadable ({_line(error)})") from error
        if not intact:
            raise DamagedCheckpoint(f"{where} is damaged: SHA-256 differs for the meta data")
        return meta

    def restore(self, target: Any, step: int, *, part: bool = False) -> tuple[Any, dict[str, Any]]:
        """State of the structure, shapes and dtypes of `target`, and its meta (with its score).

        With `part` the checkpoint may hold more than `target` asks for, such as the state of an optimiser.

        Raises:
          DamagedCheckpoint: files are missing or changed; names the step, the folder and the arrays.
          CheckpointError: the state is that of another network or optimiser; lists the arrays that differ.
        """
        where = f"checkpoint {step} in {self.directory / str(step)}"
        expected = _flatten(target)
        meta = self._meta(step)
        stored = meta.pop("arrays")
        blank = {name: np.zeros(x.shape, x.dtype) for name, x in expected.items()}
        names = blank if part else {*stored, *blank}
        if other := [name for name in sorted(names) if not _alike(stored.get(name), blank.get(name))]:
            raise CheckpointError(f"{where} is of another network or optimiser; arrays that differ: {other}")
        try:
            whole = {name: np.zeros(x["shape"], x["dtype"]) for name, x in stored.items()}
            args = ocp.args.Composite(state=ocp.args.StandardRestore(whole))
            with _quiet_orbax():
                arrays = self._manager.restore(step, args=args)["state"]
        except Exception as error:
            raise DamagedCheckpoint(f"{where} is damaged: arrays unreadable ({_line(error)})") from error
        if changed := [name for name, x in arrays.items() if _describe(x) != stored[name]]:
            raise DamagedCheckpoint(f"{where} is damaged: SHA-256 differs for {', '.join(changed)}")
        return jax.tree.unflatten(jax.tree.structure(target), [arrays[name] for name in expected]), meta

    def restore_newest(
        self, target: Any, check: Callable[[int, dict[str, Any]], None] | None = None, *, part: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """`restore` of the newest sound checkpoint; damaged ones are moved to `damaged/` beside the folder.

        `check` may refuse a step by its meta before its arrays are compared with `target`.

        Raises:
          CheckpointError: there is none, or none is sound.
        """
        return self._restore_first(self.steps()[::-1], target, check, part)

    def restore_best(self, target: Any, *, part: bool = False) -> tuple[Any, dict[str, Any]]:
        """The same for the sound checkpoint with the highest score, the newest of equals."""
        return self._restore_first(self._ranked()[::-1], target, None, part)

    def damaged(self) -> list[str]:
        """Names of the checkpoints that were set aside."""
        return sorted(path.name for path in self._aside.iterdir()) if self._aside.is_dir() else []

    def _restore_first(
        self, steps: list[int], target: Any, check: Any, part: bool
    ) -> tuple[Any, dict[str, Any]]:
        for step in steps:
            try:
                if check is not None:
                    check(step, self._meta(step))
                return self.restore(target, step, part=part)
            except DamagedCheckpoint as error:
                log.warning("%s; moved to %s, trying another one", error, self._set_aside(step))
        raise CheckpointError(
            f"no sound checkpoint in {self.directory}; start a new run in another folder, or put one back"
        )

    @property
    def _aside(self) -> Path:
        return self.directory.parent / "damaged"

    def _set_aside(self, step: int) -> Path:
        aside = self._aside
        aside.mkdir(exist_ok=True)
        name = next(
            n for i in range(10_000) if not (n := aside / (f"{step}-{i}" if i else str(step))).exists()
        )
        (self.directory / str(step)).rename(name)
        self._manager.close()
        del self._manager
        return name


def _flatten(tree: Any) -> dict[str, Any]:
    """Arrays by path, in the tree's own order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _finite(array: Any) -> bool:
    return not jnp.issubdtype(array.dtype, jnp.inexact) or bool(np.isfinite(array).all())


def _describe(array: Any) -> dict[str, Any]:
    """What a restored array must agree with."""
    array = np.asarray(array)
    return {"sha256": _sha256(array.tobytes()), "shape": list(array.shape), "dtype": str(array.dtype)}


def _alike(stored: dict[str, Any] | None, array: Any) -> bool:
    if stored is None or array is None:
        return False
    return stored["shape"] == list(array.shape) and stored["dtype"] == str(array.dtype)


def _canonical(meta: dict[str, Any]) -> bytes:
    return json.dumps(meta, sort_keys=True).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Without the tracebacks that orbax logs of errors that it raises too; after an error its threads log still."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def _line(error: Exception) -> str:
    """The first line of an error whose text may be pages long, or that of its cause."""
    texts, cause = [], error
    while cause is not None:
        texts.append(str(cause).strip())
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    if any("No space left on device" in text for text in texts):
        return "no space left on the disk"
    return next((text.splitlines()[0] for text in texts if text), type(error).__name__)[:200]
