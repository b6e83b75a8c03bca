"""Tiny runs in processes of their own, for the stress suite: started, damaged, resumed and compared.

A process is forked from a server that has imported everything, which saves seconds each time. Otherwise it is the
command `jaxml train`, with its options, its exit codes and its last line on stderr.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import importlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxml import config as configs
from jaxml.config import Config, Data, Eval, Model, Optim, Train
from jaxml.training import history

CLASSES, PICTURES, BATCH = 12, 10, 16
SOURCES = ("resident", "tf_data") if find_spec("tensorflow") else ("resident",)


@dataclasses.dataclass
class Outcome:
    """The result of a check."""

    passed: bool | None
    """None if the check could not be run."""
    figures: dict[str, Any]

    def line(self) -> str:
        """One line of a table."""
        verdict = {True: "passed", False: "FAILED", None: "not run"}[self.passed]
        return f"{verdict} | {'; '.join(f'{name}: {value}' for name, value in self.figures.items())}"


def prepare(out: Path) -> None:
    """Set the environment of all later processes: they run on CPU and share compiled programs."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(out / "compiled"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def glyphs(root: Path) -> Path:
    """Creates a data set of small drawn characters, one folder per class."""
    if not root.exists():
        from jaxml.data.decode import open_image
        from jaxml.data.sources.glyphs import IMAGES_PER_CLASS, load

        drawn = load()
        for c in range(CLASSES):
            (root / f"class{c:02d}").mkdir(parents=True)
            for i in range(PICTURES):
                picture = open_image(drawn.items[c * IMAGES_PER_CLASS + i], "glyph")
                picture.resize((20, 20), Image.Resampling.BILINEAR).save(root / f"class{c:02d}" / f"{i}.png")
    return root


def tiny(out: Path, *, source: str = "resident", groups: tuple = (), **train: Any) -> Config:
    """A run whose steps take milliseconds."""
    settings = {"steps": 40, "log_every": 1, "eval_every": 20, "save_every": 2, "devices": 1, **train}
    data = Data(
        source="folder",
        root=str(glyphs(out / "glyphs")),
        split="0-7/8-9/10-11",
        input=source,  # type: ignore[arg-type]
        stored_size=20,
        size=16,
        flip=False,
        classes_per_batch=4,
        images_per_class=BATCH // 4,
        cache=str(out / "cache"),
    )
    return Config(
        data=data,
        model=Model(feature_size=8),
        optim=Optim(schedule="cosine", groups=groups),
        train=Train(**settings),
        eval=Eval(batch_size=16, kmeans_seeds=1),
    )


class Child:
    """`jaxml train --resume`, or another verb, in a process of its own.

    `hook` is called in the process first, with `args`; it may return callbacks for the run.
    """

    _numbers = itertools.count()

    def __init__(
        self,
        workdir: Path,
        *words: str,
        verb: str = "train",
        resume: bool = True,
        hook: Callable | None = None,
        args: tuple = (),
        devices: int = 1,
    ):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["jaxml.training.train", "jaxml.reports.run", "jaxml.data.streamed", "sklearn.cluster"]
        )
        # Not on the disk that a check fills.
        self.log = workdir.parents[1] / f"{workdir.parent.name}-{next(self._numbers)}.log"
        self.workdir = workdir
        words = ("--workdir", str(workdir), *(("--resume",) if resume else ()), *words)
        self.process = context.Process(
            target=_main, args=(verb, words, str(self.log), hook, args, devices), daemon=True
        )
        self.process.start()

    def wait(self, seconds: float = 120) -> int:
        """Its exit code; a negative number is that of a signal."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            os.kill(self.process.pid, signal.SIGUSR1)  # it writes its stack into the log
            time.sleep(1)
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"did not end in {seconds} s: {self.log.read_text(errors='replace')[-5000:]}")
        return self.process.exitcode

    def last_line(self) -> str:
        """The last line that it printed."""
        return (self.log.read_text(errors="replace").strip().splitlines() or [""])[-1]

    def says(self, text: str) -> bool:
        """Whether one of its last lines has this text; libraries may print more lines at exit."""
        return any(text in line for line in self.log.read_text(errors="replace").splitlines()[-5:])

    def reach(self, step: int) -> bool:
        """Wait until it has logged a step; returns whether it still runs then."""
        while self.process.is_alive() and logged(self.workdir) < step:
            time.sleep(0.001)
        return self.process.is_alive()


def _main(verb: str, words: tuple, log: str, hook: Callable | None, args: tuple, devices: int) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.register(signal.SIGUSR1)
    # Signals that nohup and shells make background processes ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    from jaxml.commands.process import command

    main = importlib.import_module(f"jaxml.commands.{verb}").main
    if found := hook(*args) if hook else None:
        main = partial(main, callbacks=found if isinstance(found, list) else [found])
    sys.argv = [f"jaxml {verb}", *words]
    command(main)


def start(config: Config, workdir: Path) -> Path:
    """Prepare a directory in which `Child` finds a run to resume at step 0."""
    workdir.mkdir(parents=True)
    configs.save(workdir / "config.json", config)
    return workdir


def finish(workdir: Path) -> None:
    """Resume the run until its end."""
    child = Child(workdir)
    if child.wait() != 0:
        raise RuntimeError(f"{workdir} could not be resumed: {child.last_line()}")


def logged(workdir: Path) -> int:
    """The last step in the run's record."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by name: parameters, statistics, optimiser."""
    from jaxml.training import checkpoint_folder

    folder = workdir / "checkpoints" / str(step)
    return checkpoint_folder.read_arrays(folder, checkpoint_folder.read_meta(folder)["arrays"])


def differences(a: Path, b: Path, step: int) -> list[str]:
    """Differences between two finished runs, bit by bit; columns of the record that hold times are left out."""
    ours, theirs = (
        {name: (x.dtype, x.shape, x.tobytes()) for name, x in arrays(workdir, step).items()}
        for workdir in (a, b)
    )
    found = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if rows(a) != rows(b):
        found.append("metrics.jsonl")
    if (a / "results.json").read_bytes() != (b / "results.json").read_bytes():
        found.append("results.json")
    return found


def rows(workdir: Path) -> list[dict[str, float]]:
    """The record without columns that hold times."""
    found = history.read(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in found]


def fresh(out: Path, name: str) -> Path:
    """A new directory."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=out)) / "run"


def copy(workdir: Path, to: Path) -> Path:
    """A copy of a run."""
    shutil.copytree(workdir, to)
    return to
