"""Damages tiny runs and the files they read in every known way, and checks that nothing goes wrong without an error.

    python -m experiments.stress                       # all checks, up to an hour on 2 busy CPU cores
    python -m experiments.stress --quick               # a few trials of each check, minutes
    python -m experiments.stress --only killed signals

Prints a line for each check and writes stress.json and stress.md to --out; the exit code is 1 if a check failed. A
check that cannot be run here, such as one that has to mount a small disk without being root, says "not run".
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

import tyro

from experiments.stress import files, interrupts, kill, parsers, pictures, runs, steps, together
from jaxml.commands.process import command
from jaxml.reports.output import output_folder

GROUPS = (kill, interrupts, steps, files, parsers, pictures, together)
CHECKS = {name: check for group in GROUPS for name, check in group.CHECKS.items()}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which checks to run, and how thoroughly."""

    only: tuple[str, ...] = ()
    """Names of checks; all by default."""
    quick: bool = False
    """A few trials of each check instead of all."""
    out: str = "stress"
    """Folder for stress.json and stress.md: a new one, or that of an earlier call."""


def main(words: list[str]) -> None:
    arguments = tyro.cli(Arguments, args=words, description=__doc__, use_underscores=True)
    if unknown := set(arguments.only) - set(CHECKS):
        raise ValueError(f"--only {' '.join(sorted(unknown))}: unknown; the checks are {', '.join(CHECKS)}")
    outcomes = {}
    with (
        output_folder(arguments.out, "stress") as out,
        tempfile.TemporaryDirectory(prefix="jaxml-stress-") as scratch,
    ):
        runs.prepare(Path(scratch))
        for name in arguments.only or CHECKS:
            begin = time.monotonic()
            outcomes[name] = CHECKS[name](Path(scratch), arguments.quick)
            outcomes[name].figures["seconds"] = round(time.monotonic() - begin)
            print(f"{name}: {outcomes[name].line()}", flush=True)
        found = {name: dataclasses.asdict(outcome) for name, outcome in outcomes.items()}
        (out / "stress.json").write_text(json.dumps(found, indent=2) + "\n")
        lines = ["| check | outcome | figures |", "|---|---|---|"]
        lines += [f"| {name} | {outcome.line()} |" for name, outcome in outcomes.items()]
        (out / "stress.md").write_text("\n".join(lines) + "\n")
    if failed := [name for name, outcome in outcomes.items() if outcome.passed is False]:
        sys.exit(f"error: failed: {', '.join(failed)}")


if __name__ == "__main__":
    command(main)
