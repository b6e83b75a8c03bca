"""SIGTERM, by which a machine is taken back: finish the step, save, and end in time."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PREEMPTED = 75
"""Exit code after SIGTERM (EX_TEMPFAIL): the state is saved, the same command with --resume goes on."""

GRACE = 8.0
"""Seconds after SIGTERM at which the process is ended, saved or not; what was saved before stays whole."""


class RunError(RuntimeError):
    """A run that can not start or go on; the message says what to do."""


class Preempted(RunError):
    """The run was stopped by SIGTERM after its state was saved."""


class Interrupted(Exception):
    """SIGTERM came in the middle of something that can be done again."""


class _Terminated(BaseException):
    """SIGTERM, on its way out through code that catches every Exception."""


class Sigterm:
    """While entered, SIGTERM raises `Preempted`, or inside `steps` sets the flag `received` for the loop to see.

    Python's handlers wait for compiler and K-means to return. A thread does not, and ends a process that is still
    there after GRACE seconds, with the same exit code. Where something else handles the signal (not `handles`), as
    jax.distributed does, nothing is touched.
    """

    def __init__(self, handles: bool = True):
        self.received = False
        self.saved = "nothing is saved yet"
        self._handles = handles
        self._stepping = False
        self._left = threading.Event()

    def __enter__(self) -> Sigterm:
        if not self._handles:
            return self
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.signal(signal.SIGTERM, self._handle)
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if not self._handles:
            return
        self._left.set()
        signal.set_wakeup_fd(self._fd_before)
        signal.signal(signal.SIGTERM, self._before)
        os.close(self._write)
        if kind is _Terminated:
            raise Preempted(self.message()) from None

    @contextmanager
    def steps(self) -> Iterator[None]:
        """Where the loop looks at `received` itself, to save first."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False
        if self.received:
            raise Preempted(self.message())

    def _handle(self, *_) -> None:
        self.received = True
        if not self._stepping:
            raise _Terminated

    def message(self) -> str:
        """What a process says that ends."""
        return f"stopped by SIGTERM; {self.saved}, continue with --resume"

    def _watch(self, read: int) -> None:
        while number := os.read(read, 1):
            if number[0] == signal.SIGTERM and not self._left.wait(GRACE):
                os.write(2, f"\n{self.message()}\n".encode())
                os._exit(PREEMPTED)
        os.close(read)
