"""Stress checks of several processes on one run: two that train, readers beside one that trains, and other users."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import signal
import time
from pathlib import Path

import numpy as np

import jaxml
from experiments.stress.kill import StopAt
from experiments.stress.runs import Child, Outcome, copy, differences, finish, fresh, logged, start, tiny
from jaxml.training.preemption import PREEMPTED

NOBODY = 65534


def meet(own: str, other: str) -> None:
    """Wait until the other process has come as far."""
    Path(own).touch()
    end = time.monotonic() + 100
    while not Path(other).exists() and time.monotonic() < end:
        time.sleep(0.001)


def pair(workdir: Path, *words: str, resume: bool) -> list[Child]:
    """Start two processes that train in one directory from the same moment on, and wait for both to end."""
    marks = [f"{workdir}.a", f"{workdir}.b"]
    for mark in marks:
        Path(mark).unlink(missing_ok=True)
    children = [
        Child(workdir, *words, resume=resume, hook=meet, args=tuple(order)) for order in (marks, marks[::-1])
    ]
    for child in children:
        child.wait()
    return sorted(children, key=lambda child: child.process.exitcode)


def concurrent(out: Path, quick: bool) -> Outcome:
    """Pairs of processes that start in one directory, and pairs that resume one run there."""
    pairs = 1 if quick else 20
    config = tiny(out, steps=12, eval_every=6)
    whole = start(config, fresh(out, "whole"))
    finish(whole)
    preset = whole / "config.json"
    half = start(config, fresh(out, "half"))
    Child(half, hook=StopAt, args=(6,)).wait()
    won = {"started": 0, "resumed": 0}
    otherwise: list[str] = []
    for kind in won:
        for _ in range(pairs):
            workdir = fresh(out, kind)
            if kind == "resumed":
                copy(half, workdir)
                winner, loser = pair(workdir, resume=True)
            else:
                winner, loser = pair(workdir, "--preset", str(preset), resume=False)
            codes = [winner.process.exitcode, loser.process.exitcode]
            different = differences(whole, workdir, config.train.steps) if codes[0] == 0 else ["not finished"]
            different += ["damaged"] if (workdir / "damaged").exists() else []
            if codes == [0, 1] and loser.says("is being trained by") and not different:
                won[kind] += 1
            else:
                otherwise.append(f"{kind}, codes {codes}, differs: {different}, {loser.last_line()[-200:]}")
    figures = {
        "pairs": pairs,
        **{f"{kind}: one ended as if alone, the other with 1": count for kind, count in won.items()},
        **({"otherwise": otherwise} if otherwise else {}),
    }
    return Outcome(not otherwise, figures)


class Warnings(logging.Handler):
    """Collects the warnings that readers log about checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.lines.append(record.getMessage())


def readers(out: Path, quick: bool) -> Outcome:
    """Reads beside a run that saves after every step, validates now and then, and keeps three checkpoints only."""
    from jaxml.training.checkpoint import Checkpoints
    from jaxml.training.learner import create

    count = 40 if quick else 1000
    config = tiny(out, steps=100_000, eval_every=10, save_every=1, log_every=1)
    workdir = start(config, fresh(out, "read"))
    child = Child(workdir)
    child.reach(3)
    said, seen, failures = Warnings(), set(), []
    logging.getLogger("jaxml.training.checkpoint").addHandler(said)
    pixels = np.zeros((2, config.data.stored_size, config.data.stored_size, 3), np.uint8)
    template = create(config, 8)[1]
    for i in range(count):
        checkpoints = Checkpoints(workdir / "checkpoints")
        try:
            if i % 10 == 0:
                found = np.isfinite(jaxml.load(workdir).embed(pixels)).all()
            else:
                restore = (checkpoints.restore_newest, checkpoints.restore_best)[i % 2]
                state, _ = restore(template)
                seen.add(int(state.step))
                found = state.step > 0
            failures += [] if found else [f"read {i}: not what was saved"]
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}"[:200])
    logging.getLogger("jaxml.training.checkpoint").removeHandler(said)
    lived = child.process.is_alive()
    os.kill(child.process.pid, signal.SIGTERM)
    ended = child.wait() == PREEMPTED and child.says(f"step {logged(workdir)} is saved")
    checkpoints = Checkpoints(workdir / "checkpoints")
    lost = [step for step in checkpoints.steps() if int(checkpoints.restore(template, step)[0].step) != step]
    newest = checkpoints.steps()[-1] == logged(workdir)
    figures = {
        "reads": count,
        "steps meanwhile": logged(workdir),
        "different checkpoints read": len(seen),
        "reads that failed": failures[:3] or 0,
        "warnings": said.lines[:3] or 0,
        "set aside": len(checkpoints.damaged()),
        "training went on to its end": lived and ended,
    }
    passed = lived and ended and newest and not failures and not said.lines and not lost and len(seen) > 1
    return Outcome(passed and not (workdir / "damaged").exists(), figures)


def become_nobody(workdir: str) -> None:
    """Score the run once, so that everything is imported, and then become a user without rights."""
    from jaxml.commands import evaluate

    with contextlib.redirect_stdout(io.StringIO()):
        evaluate.main(["--workdir", workdir])
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def everything(workdir: Path) -> dict[str, tuple]:
    """Mode, owner and SHA-256 of all that is in a directory."""
    found = {}
    for path in sorted(workdir.rglob("*")):
        status = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(workdir))] = (status.st_mode, status.st_uid, digest)
    return found


def other_user(out: Path, quick: bool) -> Outcome:
    """A user without rights scores a run, tries to train it, and meets files that may not be read."""
    if os.geteuid() != 0:
        return Outcome(None, {"why": "only root can become another user"})
    config = tiny(out, steps=4, eval_every=2)
    sound = start(config, fresh(out, "owner"))
    finish(sound)
    for place in (out, sound.parent, out / "cache", *(out / "cache").rglob("*")):
        place.chmod(place.stat().st_mode | (0o055 if place.is_dir() else 0o044))
    newest = max((sound / "checkpoints").iterdir(), key=lambda path: int(path.name)).name
    data = f"checkpoints/{newest}/state"
    closed = ["", "checkpoints", f"checkpoints/{newest}", f"checkpoints/{newest}/meta/metadata", data]
    cases = [("evaluate", None, 0), ("train", None, 1)]
    cases += [("evaluate", place, 1) for place in (closed[-1:] if quick else closed)]
    good, otherwise = 0, []
    for verb, place, code in cases:
        workdir = copy(sound, fresh(out, "other"))
        workdir.parent.chmod(0o755)
        if place is not None:
            (workdir / place).chmod(0o700 if (workdir / place).is_dir() else 0o600)
        before = everything(workdir)
        child = Child(workdir, verb=verb, resume=verb == "train", hook=become_nobody, args=(str(workdir),))
        ended = child.wait()
        line = child.last_line()
        refused = line.startswith("error: ") and ("ermission denied" in line or "cannot be written" in line)
        if ended == code and refused == (code == 1) and everything(workdir) == before:
            good += 1
        else:
            otherwise.append(f"{verb}, {place} closed: code {ended}, {line[-300:]}")
    figures = {
        "every byte as it was, and the code and line that there should be": f"{good} of {len(cases)}",
        **({"otherwise": otherwise} if otherwise else {}),
    }
    return Outcome(not otherwise, figures)


CHECKS = {"concurrent": concurrent, "readers": readers, "other_user": other_user}
