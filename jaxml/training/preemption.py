"""Handles signals to stop (SIGTERM, Ctrl-C, SIGHUP): finish the step, save, and end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from jaxml.errors import Interrupted, Preempted

PREEMPTED = 75
"""Exit code after such a signal (EX_TEMPFAIL): the state is saved, the same command with --resume goes on."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

GRACE = 8.0
"""Seconds after which the process is ended, saved or not; what was saved before stays whole. Not for Ctrl-C and SIGHUP
while steps are made, for nobody takes the machine back then, and a step may take longer."""

GO_ON = "continue with --resume"
AGAIN = "nothing is saved yet, give the same command again"

TOGETHER = 0.25
"""Seconds within which signals count as one: a terminal that is closed sends SIGHUP twice, launchers pass Ctrl-C on."""


class _Stopped(BaseException):
    """A signal to stop, raised through code that may catch every Exception."""


class StopSignals:
    """While entered, a signal to stop raises `Preempted`, or inside `steps` sets `received` for the loop to see.

    A second signal ends the process at once. Python's handlers wait for compiler and K-means to return; a thread does
    not, and it is the thread that ends a process in time, with the exit code PREEMPTED. Signals that the process was
    told to ignore, as by nohup, stay ignored, and outside the main thread nothing is touched.

    Among several processes (not `alone`) jax.distributed acts upon SIGTERM, so that all stop at the same step; other
    signals are passed on to it as SIGTERM.

    `go_on` is how messages say that a run continues, and `saved` the newest step that can be continued.
    """

    def __init__(self, alone: bool = True, go_on: str = GO_ON):
        self.received = False
        self.saved: int | None = None
        self._go_on = go_on
        self._by = signal.SIGTERM
        self._alone = alone
        self._stepping = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        before = {number: signal.getsignal(number) for number in (SIGNALS if self._alone else SIGNALS[1:])}
        self._before = {n: handler for n, handler in before.items() if handler not in (None, signal.SIG_IGN)}
        if not self._before:
            return self
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._before:
            for number, before in self._before.items():
                signal.signal(number, before)  # type: ignore[arg-type]
            signal.set_wakeup_fd(self._fd_before)
            os.close(self._write)  # the thread ends
        if kind is not None and issubclass(kind, _Stopped | Interrupted):
            raise Preempted(self.message()) from None

    @contextmanager
    def steps(self) -> Iterator[None]:
        """While entered, the loop looks at `received` itself, to save first."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False
        if self.received:
            raise Preempted(self.message())

    def message(self) -> str:
        """Exit message."""
        state = AGAIN if self.saved is None else f"step {self.saved} is saved, {self._go_on}"
        return f"stopped by {_name(self._by)}; {state}"

    def _handle(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            self._leave_terminals()  # before anybody sees `received` and writes there
        if self.received:
            return
        self._by = signal.Signals(number)
        if not self._alone:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self.received = True
        if not self._stepping:
            raise _Stopped

    def _watch(self, read: int) -> None:
        """Watch for signals in a thread, which is told the number of each, and end the process in time."""
        first: float | None = None
        deadline: float | None = None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([read], [], [], left)[0]:
                self._end()
            if not (received := os.read(read, 1)):
                os.close(read)
                return
            number, now = received[0], time.monotonic()
            if number not in self._before:
                continue
            if first is not None and now - first > TOGETHER:
                self._end()
            if self._alone and deadline is None and (number == signal.SIGTERM or not self._stepping):
                deadline = now + GRACE
            if first is None:
                self._by = signal.Signals(number)
            if first is None and number != signal.SIGTERM and self._stepping:
                _write(f"\n{_name(number)}: the step is finished and saved; a second signal ends at once\n")
            first = first or now

    def _leave_terminals(self) -> None:
        """Send to nowhere what goes to a terminal that is being closed; writing there would be an OSError."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in self._terminals:
            os.dup2(nowhere, stream)
        os.close(nowhere)

    def _end(self) -> None:
        _end(f"\n{self.message()}\n", PREEMPTED)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, where nothing else handles it, ends the process in one line with code 130, in GRACE seconds at most."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    line, code = f"\nstopped by {_name(signal.SIGINT)}; give the same command again\n", 128 + signal.SIGINT
    late = threading.Timer(GRACE, _end, (line, code))
    late.daemon = True

    def handle(*_: object) -> None:
        # An exception that meets a callback of the garbage collector, such as jax's, is dropped there.
        if not late.is_alive():
            late.start()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    except KeyboardInterrupt:
        _write(line)
        sys.exit(code)
    finally:
        late.cancel()
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _name(number: int) -> str:
    return "Ctrl-C (SIGINT)" if number == signal.SIGINT else signal.Signals(number).name


def _write(text: str) -> None:
    """Write to stderr, which may be gone; not by sys.stderr, which the interrupted code may hold."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def _end(text: str, code: int) -> None:
    """End the process, from any thread."""
    _write(text)
    os._exit(code)
