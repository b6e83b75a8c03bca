"""What the scripts in experiments/ share: one command line, and errors of one line."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxml import config as configs
from jaxml.preemption import PREEMPTED, Preempted, RunError
from jaxml.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Which run, and every option of its configuration."""

    preset: Literal[tuple(PRESETS)] = "glyphs_simple"  # type: ignore[valid-type]
    """Configuration to start from."""
    workdir: str = ""
    """Directory of the run; runs/PRESET by default."""
    resume: bool = False
    """Continue the run in workdir, with its configuration."""
    distributed: bool = False
    """Join the other processes of this run, one to a host; each is started with the same command."""
    config: Annotated[configs.Config, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=configs.Config
    )


def parse_train(words: list[str], description: str) -> TrainArguments:
    """Command line -> arguments; the preset, or the run to resume, gives the defaults of all other options."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=PRESETS, default="glyphs_simple")
    first.add_argument("--workdir", default="")
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(words)
    workdir = known.workdir or f"runs/{known.preset}"
    saved = Path(workdir) / "config.json"
    base = configs.load(saved) if known.resume and saved.exists() else PRESETS[known.preset]
    default = TrainArguments(known.preset, workdir, known.resume, config=base)
    return tyro.cli(
        TrainArguments, args=words, default=default, description=description, use_underscores=True
    )


def command(main: Callable[[list[str]], Any]) -> None:
    """Run a script's `main`; a mistake that a user can mend ends in one line on stderr and exit code 1."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    except (OSError, RuntimeError) as error:
        # Imported here, so that --help answers without loading jax.
        from jaxml.checkpoint import CheckpointError

        if isinstance(error, Preempted):
            print(error, file=sys.stderr)
            sys.exit(PREEMPTED)
        if isinstance(error, RunError | CheckpointError | OSError):
            sys.exit(f"error: {error}")
        raise
