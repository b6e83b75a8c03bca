"""Shows on stderr how far long work has come: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

INTERVAL = 10.0
"""Seconds between lines."""


class Progress:
    """Counts up to `total`, from `done` on.

    Args:
        title: what is done, such as "decoding".
        total: the number to count up to.
        unit: what is counted, such as "image".
        done: the number to begin with.
        hidden: show nothing.
        lasting: leave the bar on the terminal, and write a line for the first and the last count as well.
    """

    def __init__(
        self, title: str, total: int, unit: str, *, done: int = 0, hidden: bool = False, lasting: bool = False
    ):
        self._title, self._total, self._unit, self._done = title, total, unit, done
        self._lines = not hidden and not sys.stderr.isatty()
        self._lasting, self._next = lasting, time.monotonic() + (0 if lasting else INTERVAL)
        hide = hidden or self._lines
        self._bar = tqdm(
            desc=title, total=total, initial=done, unit=unit, leave=lasting, disable=hide, file=sys.stderr
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, count: int = 1, note: str = "") -> None:
        """Count on; `note` says more, such as the loss."""
        self._done += count
        if self._bar.disable:
            due = time.monotonic() >= self._next or (self._lasting and self._done >= self._total)
            if self._lines and due:
                self.line(
                    f"{self._title}: {self._done:,} of {self._total:,} {self._unit}s{', ' * bool(note)}{note}"
                )
                self._next = time.monotonic() + INTERVAL
        else:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)

    def line(self, text: str) -> None:
        """Write a line, above the bar if there is one."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """End the bar."""
        self._bar.close()
