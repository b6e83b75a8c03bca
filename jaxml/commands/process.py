"""A command as a process: errors on one line, signals to stop, and exit codes."""

from __future__ import annotations

import io
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from typing import Any

from jaxml.errors import CheckpointError, Preempted, RunError
from jaxml.training.preemption import PREEMPTED, interruptible


def command(main: Callable[[list[str]], Any], words: list[str] | None = None) -> None:
    """Run a command's `main` with these words, by default those of the process's own command line.

    A mistake that a user can mend ends in one line on stderr and exit code 1.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    _keep_on_where_nobody_reads()
    try:
        with interruptible():
            main(sys.argv[1:] if words is None else words)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except (OSError, RuntimeError, ImportError) as error:
        if isinstance(error, Preempted):
            _leave(str(error))
        if isinstance(error, RunError | CheckpointError | OSError | ImportError):
            sys.exit(f"error: {error}")
        if str(error).startswith("Unable to initialize backend"):
            wanted = os.environ.get("JAX_PLATFORMS", "")
            sys.exit(f"error: JAX_PLATFORMS is {wanted!r}: {str(error).splitlines()[0]}")
        raise


class _Pipe(io.FileIO):
    """A stream of this process that may be closed at the other end, as by `head`: what is written then is dropped."""

    def write(self, data: Any) -> int:
        """Write bytes, or drop them."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _keep_on_where_nobody_reads() -> None:
    """Let the work go on when a program that was reading stdout or stderr has ended."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # Others have put their own in its place, or it was closed before this process began.
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue
        stream.flush()
        raw = _Pipe(stream.fileno(), "w", closefd=False)
        kept = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True)
        setattr(sys, name, kept)


def program() -> str:
    """What calls this command again, as a user can type it: `jaxml VERB`, or Python with a script."""
    called = sys.argv[0]
    return f"python {shlex.quote(called)}" if called.endswith(".py") else called


def _leave(message: str) -> None:
    """End after a signal to stop."""
    import jax

    print(message, file=sys.stderr, flush=True)
    if jax.process_count() == 1:
        # The time is short, and an ordinary exit waits for the threads of libraries.
        sys.stdout.flush()
        os._exit(PREEMPTED)
    sys.exit(PREEMPTED)
