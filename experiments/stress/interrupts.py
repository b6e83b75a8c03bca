"""Check of stress.py that interrupts a whole command by Ctrl-C at random moments, and then does what it says."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from experiments.stress.runs import Child, Outcome, differences, finish, fresh, logged, start, tiny
from jaxml import config as configs
from jaxml.training.preemption import PREEMPTED


def interrupted(out: Path, quick: bool) -> Outcome:
    """Ctrl-C anywhere between start and report; the command that the last line names ends as an undisturbed run."""
    wanted = 3 if quick else 20
    config = tiny(out, steps=12, eval_every=6, save_every=2)
    configs.save(out / "interrupted.json", config)
    whole = start(config, fresh(out, "whole"))
    finish(whole)  # compiles
    begin = time.monotonic()
    finish(start(config, fresh(out, "timed")))
    seconds = time.monotonic() - begin
    rng, failures, codes, steps = np.random.default_rng(3), [], [], []
    for i in range(wanted):
        workdir = fresh(out, f"interrupted{i}")
        begun = out / f"begun{i}"
        words = ("--preset", str(out / "interrupted.json"))
        child = Child(workdir, *words, resume=False, hook=Path.touch, args=(begun,))
        while child.process.is_alive() and not begun.exists():
            time.sleep(0.001)
        # One moment in each part of the command's time.
        time.sleep(seconds * (i + rng.uniform()) / wanted)
        if child.process.is_alive():
            os.kill(child.process.pid, signal.SIGINT)
        codes.append(child.wait())
        steps.append(logged(workdir))
        if codes[-1] == PREEMPTED and child.says(f"--workdir {workdir} --resume"):
            finish(workdir)
        elif codes[-1] != 0 and child.says("give the same command again"):
            again = Child(workdir, *words, resume=False)
            if again.wait() != 0:
                failures.append(f"{i}: the same command: {again.last_line()[-200:]}")
                continue
        elif codes[-1] != 0:
            failures.append(f"{i}: code {codes[-1]}: {child.last_line()[-200:]}")
            continue
        if different := differences(whole, workdir, config.train.steps):
            failures.append(f"{i}: differs in {', '.join(different)}")
    figures = {
        "ended as the undisturbed run, bit by bit": f"{wanted - len(failures)} of {wanted}",
        "exit codes": ", ".join(f"{code} {codes.count(code)} times" for code in sorted(set(codes))),
        "logged steps at the stop": f"{min(steps)} to {max(steps)}",
        **({"otherwise": failures} if failures else {}),
    }
    return Outcome(not failures, figures)


CHECKS = {"interrupted": interrupted}
