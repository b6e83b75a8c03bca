"""Locks a run's directory, so that one process at a time trains there; the system frees it however that one ends."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from jaxml.errors import RunError

log = logging.getLogger(__name__)

NAME = "run.lock"


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold the lock of a run's directory, which is made if need be. Readers do not take it.

    It is an advisory lock (flock) on `run.lock`; the file says who holds it, and stays behind. On a file system that
    has no locks a warning says so, and nothing is held.

    Raises:
        RunError: the lock is held already; names the holder's process and host.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / NAME
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            raise RunError(f"{workdir} is being trained by {holder}; wait for it, or stop it") from None
        except OSError as error:
            log.warning(
                "%s cannot be locked (%s): see to it that no other process trains in this directory",
                path,
                error.strerror,
            )
            yield
            return
        file.truncate(0)
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        file.write(f"process {os.getpid()} on host {socket.gethostname()} since {since}\n")
        file.flush()
        yield
