"""Stress checks that end a run from outside: SIGKILL, a stop after every step, other signals, and a full disk."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from experiments.stress.runs import (
    BATCH,
    SOURCES,
    Child,
    Outcome,
    differences,
    finish,
    fresh,
    logged,
    rows,
    start,
    tiny,
)
from jaxml.training.callbacks import Callback
from jaxml.training.preemption import PREEMPTED, SIGNALS
from jaxml.training.run import Run


def kill_in_save(step: int, delay: float, marks: str) -> None:
    """SIGKILL `delay` seconds after the save of `step` has begun; a file tells whether the save had ended by then."""
    from jaxml.training.checkpoint import Checkpoints

    save = Checkpoints.save

    def timed(self, at, *args, **kwargs):
        if at == step:
            Path(marks).write_text("inside")
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        save(self, at, *args, **kwargs)
        if at == step:
            Path(marks).write_text("after")

    Checkpoints.save = timed


def killed(out: Path, quick: bool) -> Outcome:
    """SIGKILL at random moments, half of them during a save, after which the run is resumed to its end."""
    kills, sources = (4, SOURCES[:1]) if quick else (20, SOURCES)
    figures: dict[str, object] = {}
    passed = True
    for source in sources:
        rng = np.random.default_rng(0)
        config = tiny(out, source=source, steps=4 * kills, eval_every=2 * kills)
        whole, hurt = start(config, fresh(out, "whole")), start(config, fresh(out, "killed"))
        finish(whole)
        count = inside = 0
        steps: list[int] = []
        while count < kills:
            now = logged(hurt)
            # Enough steps must be left for the kills that are left.
            target = now + 1 + int(rng.integers(max(1, (config.train.steps - 2 - now) // (kills - count))))
            if inside < kills // 2 or inside <= count // 2:
                target = min(target + target % 2, config.train.steps)
                marks = hurt / "marks"
                marks.unlink(missing_ok=True)
                child = Child(hurt, hook=kill_in_save, args=(target, rng.uniform(0, 0.03), str(marks)))
                code = child.wait()
                inside += marks.exists() and marks.read_text() == "inside"
            else:
                child = Child(hurt)
                if child.reach(target):
                    time.sleep(rng.uniform(0, 0.02))
                    child.process.kill()
                code = child.wait()
            if code == 0:
                break
            if code != -signal.SIGKILL:
                raise RuntimeError(f"ended with {code}: {child.last_line()}")
            count += 1
            steps.append(logged(hurt))
        finish(hurt)
        different = differences(whole, hurt, config.train.steps)
        passed &= count == kills and 2 * inside >= kills and not different
        figures[source] = f"{count} killed ({inside} inside a save) at steps {steps[0]}-{steps[-1]}"
        figures[f"{source}, differs"] = ", ".join(different) or "nothing, bit by bit"
    return Outcome(passed, figures)


class Samples(Callback):
    """Writes the sums of pixels of the images in every tf.data batch into a file."""

    def __init__(self, drawn: str):
        self._drawn = drawn

    def on_begin(self, run: Run) -> None:
        read = run.images.read

        def noting(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            for pixels in read(batches):
                with open(self._drawn, "a") as file:
                    file.write(f"{[int(p.sum()) for p in pixels.astype(np.int64)]}\n")
                yield pixels

        run.images = dataclasses.replace(run.images, read=noting)


def every_step(out: Path, quick: bool) -> Outcome:
    """A stop after each step of two epochs."""
    figures: dict[str, object] = {}
    passed = True
    for source in SOURCES[:1] if quick else SOURCES:
        epochs = 2 * 80 // BATCH  # 8 classes of 10 images
        steps = 4 if quick else epochs
        config = tiny(out, source=source, steps=steps, eval_every=max(2, steps // 2), save_every=100)
        whole, hurt = start(config, fresh(out, "whole")), start(config, fresh(out, "stopped"))
        Child(whole, hook=Samples, args=(str(whole / "drawn"),)).wait()
        stops = 0
        while (
            code := Child(hurt, hook=stopped_after_one_step, args=(str(hurt / "drawn"),)).wait()
        ) == PREEMPTED:
            stops += 1
        different = differences(whole, hurt, steps)
        if source == "tf_data" and (whole / "drawn").read_text() != (hurt / "drawn").read_text():
            different.append("samples")
        passed &= code == 0 and stops == steps and not different
        figures[source] = f"{stops} stops in {steps} steps; differs: {', '.join(different) or 'nothing'}"
    return Outcome(passed, figures)


def signals(out: Path, quick: bool) -> Outcome:
    """SIGTERM, Ctrl-C and SIGHUP at random moments: exit code, time, and the line that says how to resume."""
    wanted = 3 if quick else 21
    # Far more steps than there is time for, so that every signal comes while the run trains.
    config = tiny(out, steps=100 * wanted, eval_every=20, save_every=1000, log_every=1)
    rng = np.random.default_rng(1)
    workdir, took = start(config, fresh(out, "signals")), []
    failures: list[str] = []
    for i in range(wanted):
        number = SIGNALS[i % len(SIGNALS)]
        child = Child(workdir)
        child.reach(logged(workdir) + 1 + int(rng.integers(10)))
        time.sleep(rng.uniform(0, 0.05))
        begin = time.monotonic()
        os.kill(child.process.pid, number)
        code = child.wait()
        took.append(time.monotonic() - begin)
        saved = f"step {logged(workdir)} is saved, continue with `jaxml train --workdir {workdir} --resume`"
        if code != PREEMPTED or took[-1] > 10 or not (child.says(saved) and child.says(number.name)):
            said = child.last_line()[-200:]
            failures.append(f"{number.name}: code {code} after {took[-1]:.1f} s, not {saved!r} but {said!r}")
    whole = start(config, fresh(out, "whole"))
    finish(whole)
    finish(workdir)
    different = differences(whole, workdir, config.train.steps)
    figures = {
        "ended with code 75, saved, said how to resume": f"{wanted - len(failures)} of {wanted}",
        **({"otherwise": failures} if failures else {}),
        "seconds, longest": round(max(took), 2),
        "differs from the whole run": ", ".join(different) or "nothing",
    }
    return Outcome(not failures and not different, figures)


def fill_disk(step: int, share: float, size: int) -> None:
    """Before the save of `step`, fill the disk up to a share of a checkpoint's size."""
    from jaxml.training import checkpoint_folder

    write = checkpoint_folder.write

    def full(folder, *args):
        if folder.stem == str(step):
            place = folder.parents[2]
            free = shutil.disk_usage(place).free
            with open(place / "filler", "wb") as file:
                file.write(bytes(max(0, free - int(share * size))))
        write(folder, *args)

    checkpoint_folder.write = full


def disk_full(out: Path, quick: bool) -> Outcome:
    """The disk, a small tmpfs, becomes full in the middle of a save; the older checkpoints must stay whole."""
    wanted = 1 if quick else 10
    config = tiny(out, steps=2 * wanted + 4, eval_every=1000)
    whole = start(config, fresh(out, "whole"))
    finish(whole)
    newest = max((whole / "checkpoints").iterdir(), key=lambda path: int(path.name))
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    place = fresh(out, "tmpfs").parent
    command = ["mount", "-t", "tmpfs", "-o", f"size={12 * size + 2**20}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        return Outcome(None, {"why": "a tmpfs cannot be mounted here"})
    try:
        rng = np.random.default_rng(2)
        workdir, good, messages = start(config, place / "run"), 0, set()
        failures: list[str] = []
        for i in range(wanted):
            step = 2 * i + 4
            child = Child(workdir, hook=fill_disk, args=(step, rng.uniform(0.02, 0.9), size))
            code = child.wait()
            line = child.last_line()
            (place / "filler").unlink(missing_ok=True)
            messages.add(line.split(": ")[-1])
            steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())
            named = child.says(f"error: checkpoint {step} not written")
            resumed = Child(workdir, hook=StopAt, args=(step,))  # one step on from the checkpoint left whole
            whole_left = resumed.wait() == PREEMPTED and "damaged" not in resumed.log.read_text()
            if code == 1 and named and steps[-1] == step - 2 and whole_left:
                good += 1
            else:
                failures.append(
                    f"step {step}, code {code}, checkpoints {steps}, whole {whole_left}, {line[-200:]}"
                )
        # Too little space before the save begins, even after it removes what an earlier save left behind.
        with open(place / "filler", "wb") as file:
            file.write(bytes(shutil.disk_usage(place).free - size // 2))
        child = Child(workdir)
        early = child.wait() == 1 and child.says("no room for checkpoint")
        if not early:
            failures.append(f"too little space: {child.last_line()[-200:]}")
        (place / "filler").unlink()
        finish(workdir)
        different = differences(whole, workdir, config.train.steps)
    finally:
        subprocess.run(["umount", str(place)], check=False)
    figures = {
        "named the checkpoint, code 1, older ones whole": f"{good} of {wanted}",
        "said": " / ".join(sorted(messages))[:200],
        **({"otherwise": failures} if failures else {}),
        "too little space found before a save": early,
        "differs from the whole run": ", ".join(different) or "nothing",
    }
    return Outcome(good == wanted and early and not different, figures)


class StopAt(Callback):
    """Sends SIGTERM to this process after a step, or after the first later one."""

    def __init__(self, step: int):
        self._step = step

    def on_step(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        if step >= self._step:
            os.kill(os.getpid(), signal.SIGTERM)


def stopped_after_one_step(drawn: str) -> list[Callback]:
    """Stop after the first step, and write what the tf.data path draws into a file."""
    return [StopAt(0), Samples(drawn)]


CHECKS = {"killed": killed, "every_step": every_step, "signals": signals, "disk_full": disk_full}
__all__ = ["CHECKS", "rows"]
