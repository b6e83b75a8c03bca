"""A command as a process: errors on one line, signals to stop, and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from jaxml.errors import CheckpointError, Preempted, RunError
from jaxml.training.preemption import PREEMPTED, interruptible


def command(main: Callable[[list[str]], Any], words: list[str] | None = None) -> None:
    """Run a command's `main` with these words, by default those of the process's own command line.

    A mistake that a user can mend ends in one line on stderr and exit code 1.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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
        raise


def _leave(message: str) -> None:
    """End after a signal to stop."""
    import jax

    print(message, file=sys.stderr, flush=True)
    if jax.process_count() == 1:
        # The time is short, and an ordinary exit waits for the threads of libraries.
        sys.stdout.flush()
        os._exit(PREEMPTED)
    sys.exit(PREEMPTED)
