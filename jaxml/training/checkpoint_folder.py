"""One checkpoint on disk: a folder of arrays and meta data, checked by SHA-256. Only this file knows orbax."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from jaxml.errors import CheckpointError, DamagedCheckpoint, MissingCheckpoint
from jaxml.files import parse_json


def write(folder: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write `state/` and `meta/metadata` of a checkpoint; the meta data gets the hashes of the arrays and its own."""
    meta = {**meta, "arrays": {name: _describe(x) for name, x in arrays.items()}}
    meta["sha256"] = _sha256(_canonical(meta))
    args = ocp.args.Composite(state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta))
    with _quiet_orbax():
        _checkpointer().save(folder, args=args)


def read_meta(folder: Path) -> dict[str, Any]:
    """What `write` was given, and `arrays`, their descriptions by name.

    Raises:
        DamagedCheckpoint: the file is missing or changed.
    """
    try:
        meta = parse_json((folder / "meta" / "metadata").read_bytes(), "meta/metadata")
        intact = meta.pop("sha256") == _sha256(_canonical(meta))
    except Exception as error:
        raise DamagedCheckpoint(
            f"{named(folder)} is damaged: meta data unreadable ({reason(error)})"
        ) from error
    if not intact:
        raise DamagedCheckpoint(f"{named(folder)} is damaged: SHA-256 differs for the meta data")
    return meta


def read_arrays(folder: Path, stored: dict[str, Any]) -> dict[str, np.ndarray]:
    """All arrays by name, given their descriptions; DamagedCheckpoint if files are missing or changed."""
    try:
        blank = {name: np.zeros(x["shape"], x["dtype"]) for name, x in stored.items()}
        with _quiet_orbax():
            args = ocp.args.Composite(state=ocp.args.StandardRestore(blank))
            arrays = _checkpointer().restore(folder, args=args)["state"]
    # Whatever orbax and tensorstore raise where bytes are wrong, it means the same.
    except Exception as error:
        raise DamagedCheckpoint(f"{named(folder)} is damaged: arrays unreadable ({reason(error)})") from error
    if changed := [name for name, x in arrays.items() if _describe(x) != stored[name]]:
        raise DamagedCheckpoint(f"{named(folder)} is damaged: SHA-256 differs for {', '.join(changed)}")
    return arrays


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Tell a damaged checkpoint from one that was deleted meanwhile, and from one that the system refuses to read.

    Raises:
        MissingCheckpoint: the folder is not there, or not the one that it was at the beginning.
        CheckpointError: the system refuses to read it; names the file.
    """
    before = _identity(folder)
    try:
        yield
    except DamagedCheckpoint as error:
        refused = _refused(folder)
        if before is None or _identity(folder) != before:
            raise MissingCheckpoint(f"{named(folder)} is not there any more") from error
        if refused is not None:
            raise unreadable(refused) from error
        raise


def named(folder: Path) -> str:
    """How a message names a checkpoint."""
    return f"checkpoint {folder.name} in {folder}"


def unreadable(error: OSError) -> CheckpointError:
    """The error for a file or folder that the system refuses to read."""
    return CheckpointError(f"{error.filename} cannot be read: {error.strerror}; nothing was changed")


def reason(error: BaseException | None) -> str:
    """The first line of an error whose text may be pages long, or that of its cause."""
    texts, name = [], type(error).__name__
    while error is not None:
        texts.append(str(error).strip())
        error = error.__cause__ or error.__context__
    if any("No space left on device" in text for text in texts):
        return "no space left on the disk"
    return next((text.splitlines()[0] for text in texts if text), name)[:200]


@cache
def _checkpointer() -> ocp.Checkpointer:
    _mute_late_threads()
    # No CheckpointManager: it caches what it has listed, creates folders where it reads, and cleans up in threads.
    first = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=first),
        state=ocp.StandardCheckpointHandler(multiprocessing_options=first),
        meta=ocp.JsonCheckpointHandler(multiprocessing_options=first),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=first)


def _mute_late_threads() -> None:
    """Leave out the tracebacks of threads that report to an event loop which an error of orbax has closed.

    The error itself is raised; dozens of these tracebacks came after its message, so that the message was not the last.
    """
    before = sys.unraisablehook

    def hook(report: Any) -> None:
        if str(report.exc_value) != "Event loop is closed":
            before(report)

    sys.unraisablehook = hook


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Without the tracebacks that orbax logs of errors that it raises too; after an error its threads log still."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells this folder from another one that takes its name; None where there is none."""
    try:
        status = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(error) from error
    return status.st_dev, status.st_ino


def _refused(folder: Path) -> OSError | None:
    """The error with which the system refuses to read something in a folder; a file that is not there is none."""

    def stop(error: OSError) -> None:
        raise error

    try:
        for place, _, names in os.walk(folder, onerror=stop):
            for name in names:
                with open(Path(place) / name, "rb") as file:
                    while file.read(2**20):
                        pass
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    return None


def _describe(array: Any) -> dict[str, Any]:
    """What an array that is read must agree with."""
    array = np.asarray(array)
    return {"sha256": _sha256(array.tobytes()), "shape": list(array.shape), "dtype": str(array.dtype)}


def _canonical(meta: dict[str, Any]) -> bytes:
    return json.dumps(meta, sort_keys=True).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
