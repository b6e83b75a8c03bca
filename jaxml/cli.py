"""What the scripts in experiments/ share: one command line, and errors of one line."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxml import config as configs
from jaxml.errors import CheckpointError, Preempted, RunError
from jaxml.presets import PRESETS
from jaxml.training.preemption import PREEMPTED, interruptible


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Which run, and every option of its configuration."""

    preset: str = "glyphs_simple"
    """Configuration to start from: a name from jaxml.presets.PRESETS, or a JSON file such as a run's config.json."""
    workdir: str = ""
    """Directory of the run; runs/ and the preset's name by default."""
    resume: bool = False
    """Continue the run in workdir, with its configuration."""
    other_data: bool = False
    """Continue it although its pictures are not those that it has seen."""
    distributed: bool = False
    """Join the other processes of this run, one to a host; each is started with the same command."""
    config: Annotated[configs.Config, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=configs.Config
    )


def parse_train(words: list[str], description: str) -> TrainArguments:
    """Command line -> arguments; the preset, or the run to resume, gives the defaults of all other options."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="glyphs_simple")
    first.add_argument("--workdir", default="")
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(words)
    if not known.preset.endswith(".json") and known.preset not in PRESETS:
        first.error(f"--preset {known.preset}: give a JSON file, or one of {', '.join(PRESETS)}")
    workdir = known.workdir or f"runs/{Path(known.preset).stem}"
    saved = Path(workdir) / "config.json"
    base = configs.load(saved) if known.resume and saved.exists() else preset(known.preset)
    default = TrainArguments(known.preset, workdir, known.resume, config=base)
    arguments = tyro.cli(
        TrainArguments, args=words, default=default, description=description, use_underscores=True
    )
    # An empty --workdir would be the current folder, which is somebody's already.
    return dataclasses.replace(arguments, workdir=workdir)


def also(name: str) -> Any:
    """For `Annotated`: a script's option under the name that it has in train.py too, as errors of a run call it."""
    return tyro.conf.arg(aliases=(name,))


def preset(name: str) -> configs.Config:
    """The named configuration, or the one in a JSON file."""
    return configs.load(name) if name.endswith(".json") else PRESETS[name]


def _leave(message: str) -> None:
    """End after a signal to stop."""
    import jax

    print(message, file=sys.stderr, flush=True)
    if jax.process_count() == 1:
        # The time is short, and an ordinary exit waits for the threads of libraries.
        sys.stdout.flush()
        os._exit(PREEMPTED)
    sys.exit(PREEMPTED)


def command(main: Callable[[list[str]], Any]) -> None:
    """Run a script's `main`; a mistake that a user can mend ends in one line on stderr and exit code 1."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with interruptible():
            main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    except (OSError, RuntimeError, ImportError) as error:
        if isinstance(error, Preempted):
            _leave(str(error))
        if isinstance(error, RunError | CheckpointError | OSError | ImportError):
            sys.exit(f"error: {error}")
        raise
