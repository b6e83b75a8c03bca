"""Runs every benchmark with quick settings on the devices of this machine, after a check of the kernels on them.

    make benchmark
    python -m experiments.benchmarks --out benchmarks

Runs kernels.py and then every benchmark with --quick, one after the other, each in its own process and for at most
`--limit` seconds. Their output, JSON files, plots and tables go into one folder, which is new or that of an earlier
call, with a summary.md of all tables, the device, versions and commit. Takes three minutes on two idle CPU cores, and
never more than ten. Needs neither tensorflow nor a network, and compares with PyTorch if it is installed. Ends with an
error if any benchmark failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from jaxml.commands.process import command
from jaxml.reports.output import output_folder

SCRIPTS = ("backbones", "mining", "scaling", "training")
TOTAL = 580.0


def run(name: str, options: list[str], out: Path, limit: float) -> tuple[str, float]:
    """Run a script of this folder, show its output and keep it in `name`.log; returns outcome and seconds."""
    print(f"\n== {name}", flush=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    start = time.monotonic()
    log = out / f"{name}.log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", f"experiments.benchmarks.{name}", *options],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=limit)
            outcome = "ok" if code == 0 else f"failed, exit code {code}"
        except subprocess.TimeoutExpired:
            outcome = f"stopped after {limit:.0f} s"
        finally:
            stop(process)
    print(log.read_text())
    return outcome, time.monotonic() - start


def stop(process: subprocess.Popen) -> None:
    """End a script together with the workers that it started."""
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        return
    process.wait()


def summary(out: Path, outcomes: dict[str, tuple[str, float]]) -> str:
    """One Markdown page: device and commit, the outcomes, and the tables and plots of all benchmarks."""
    where = (out / "timing.log").read_text().strip()
    lines = ["# Benchmarks\n", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, quick settings.\n", where, ""]
    lines += ["| script | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {name} | {outcome} | {took:.0f} |" for name, (outcome, took) in outcomes.items()]
    checked = (out / "kernels.log").read_text().strip().splitlines() or ["no output"]
    lines += ["\n## kernels\n", checked[-1]]
    for name in outcomes:
        if (table := out / f"{name}.md").exists():
            lines += [f"\n## {name}\n", table.read_text().strip()]
        lines += [f"\n![{plot.stem}]({plot.name})" for plot in sorted(out.glob(f"{name}*.png"))]
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for each script")
    arguments = parser.parse_args(words)
    end = time.monotonic() + TOTAL
    outcomes: dict[str, tuple[str, float]] = {}
    with output_folder(arguments.out, "benchmarks") as out:
        for name in ("timing", "kernels", *SCRIPTS):
            options = ["--quick", "--out", str(out)] if name in SCRIPTS else []
            outcomes[name] = run(name, options, out, min(arguments.limit, max(end - time.monotonic(), 1)))
        where = outcomes.pop("timing")
        outcomes |= {} if where[0] == "ok" else {"timing": where}
        (out / "summary.md").write_text(summary(out, outcomes))
    print(f"summary: {arguments.out / 'summary.md'}")
    if bad := [name for name, (outcome, _) in outcomes.items() if outcome != "ok"]:
        sys.exit(f"error: {', '.join(bad)} did not finish; see the .log files in {arguments.out}")


if __name__ == "__main__":
    command(main)
