"""Progress on stderr: lines where no terminal is, a bar where one is, and nothing where it is hidden."""

import io

import pytest

from jaxml import progress
from jaxml.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def counted(monkeypatch, stream, **options):
    """What is written while seven steps are counted."""
    monkeypatch.setattr("sys.stderr", stream)
    with Progress("training", 7, "step", **options) as shown:
        for step in range(options.get("done", 0), 7):
            shown.update(note=f"loss {step / 8}")
    return stream.getvalue()


def test_the_first_and_the_last_step_have_a_line(monkeypatch):
    lines = counted(monkeypatch, io.StringIO(), lasting=True).splitlines()
    assert lines[0] == "training: 1 of 7 steps, loss 0.0"
    assert lines[-1] == "training: 7 of 7 steps, loss 0.75"
    resumed = counted(monkeypatch, io.StringIO(), lasting=True, done=5).splitlines()
    assert resumed == ["training: 6 of 7 steps, loss 0.625", "training: 7 of 7 steps, loss 0.75"]


def test_there_is_a_line_every_so_often(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(progress, "INTERVAL", 3)
    lines = counted(monkeypatch, io.StringIO()).splitlines()
    # The clock is read once for each step, and once more for each line.
    assert lines == ["training: 3 of 7 steps, loss 0.25", "training: 6 of 7 steps, loss 0.625"]


def test_short_work_has_no_line(monkeypatch):
    assert counted(monkeypatch, io.StringIO()) == ""


def test_a_terminal_has_a_bar(monkeypatch):
    shown = counted(monkeypatch, Terminal(), lasting=True)
    assert "\r" in shown
    assert "7/7" in shown
    assert "training: 7 of 7" not in shown


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_what_is_hidden_is_not_shown(stream, monkeypatch):
    assert counted(monkeypatch, stream, hidden=True, lasting=True) == ""
