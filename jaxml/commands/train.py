"""Train a network on some classes, cluster others, and write a report.

    jaxml train --preset glyphs_simple
    jaxml train --preset cub_squeezenet --data.root CUB_200_2011 --model.weights FILE
    jaxml train --workdir runs/glyphs_simple --resume
    jaxml train --preset glyphs_simple --distributed    # on every host

SIGTERM, Ctrl-C and SIGHUP end the run after the current step, which is saved; a second signal ends it at once. Only one
process can train in WORKDIR at a time; `jaxml evaluate` and `jaxml cluster` may read it meanwhile. A run continues only
with the pictures that it has seen, unless --other_data is given.

Exit codes: 0 finished, 1 an error that the last line names, 2 wrong options, 75 stopped by a signal and saved
(run it again with --resume), 130 stopped by Ctrl-C before training began.
"""

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxml import config as configs
from jaxml.commands.options import parse, preset, preset_name, presets
from jaxml.commands.process import program
from jaxml.config.checks import options


@options
@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which run, and every option of its configuration."""

    preset: str = "glyphs_simple"
    """Configuration to start from: one of the presets above, or a JSON or YAML file, such as a run's
    config.json."""
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


def main(words: list[str], callbacks: Sequence[Any] = ()) -> None:
    """Train, and print the results."""
    arguments = parse_train(words)
    # Imported after parsing, so that --help and wrong options answer at once.
    from jaxml import distributed
    from jaxml.reports import run as report
    from jaxml.training import results, train

    if arguments.distributed:
        distributed.start()
    again = f"{program()} --workdir {shlex.quote(arguments.workdir)} --resume"
    found = train.train(
        arguments.config,
        arguments.workdir,
        resume=arguments.resume,
        other_data=arguments.other_data,
        callbacks=callbacks,
        go_on=f"continue with `{again}{' --distributed' * arguments.distributed}`",
    )
    if not distributed.is_main():
        return
    part = found["split"]
    print(f"\nclusters of {report.PARTS[part]}, network of step {found['step']}:")
    print(results.table({**found["baselines"], "this run": found[part]}))
    print(f"report: {Path(arguments.workdir) / 'report.html'}")


def parse_train(words: list[str]) -> Arguments:
    """Command line -> arguments; the preset, or the run to resume, gives the defaults of all other options."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--workdir", default="")
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(words)
    name = preset_name(words)
    workdir = known.workdir or f"runs/{Path(name).stem}"
    saved = Path(workdir) / "config.json"
    base = configs.load(saved) if known.resume and saved.exists() else preset(name)
    default = Arguments(name, workdir, known.resume, config=base)
    arguments = parse(Arguments, words, f"{__doc__}\n{presets()}", default)
    # An empty --workdir would be the current folder, which is somebody's already.
    return dataclasses.replace(arguments, workdir=workdir)
