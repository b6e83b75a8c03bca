"""Say what a run needs on an accelerator before one is rented.

    jaxml plan --preset cub_best --for v5e:4x4
    jaxml plan --preset cub_best --for h100:8 --model.dtype bfloat16 --data.classes_per_batch 256
    jaxml plan --preset glyphs_simple --for cpu

It prints memory, memory traffic and the largest batch. The training step is compiled by the accelerator's own compiler,
which needs no accelerator, no data set and no weights: the extra plan-tpu brings that of v5e, v5p and v6e, plan-gpu
that of h100. Each compilation takes a minute or so; the search for the largest batch that fits takes up to five more.
What is printed is the compiler's account, and a lower bound of time that follows from published peaks: nothing is
measured. plan.json and plan.png are written to --out.

Exit codes: 0 the batch fits, 1 an error that the last line names, 2 wrong options, 3 the batch does not fit.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import tyro

from jaxml.commands.options import parse, preset, preset_name
from jaxml.config import Config
from jaxml.config.checks import options

DOES_NOT_FIT = 3


@options
@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to plan, and for which chips."""

    preset: str = "glyphs_simple"
    """Configuration to start from: a name from jaxml.config.presets, or a JSON or YAML file, such as a run's
    config.json."""
    target: Annotated[str, tyro.conf.arg(name="for")] = "v5e:2x2"
    """Chips: v5e:4x4 (v5e, v5p or v6e and their arrangement), h100:8, cpu."""
    largest: bool = True
    """Look for the largest batch that fits, with up to five more compilations."""
    images: int = 0
    """Images of the data set; 0 where its source says how many it has."""
    classes: int = 0
    """Classes of the data set; 0 where its source says how many it has."""
    out: str = ""
    """Folder for plan.json and plan.png; runs/plan-PRESET-CHIPS by default."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def parse_plan(words: list[str]) -> Arguments:
    """Command line -> arguments; the preset gives the defaults of the configuration's options."""
    name = preset_name(words)
    return parse(Arguments, words, __doc__, Arguments(name, config=preset(name)))


def say(text: str) -> None:
    """Print progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def main(words: list[str]) -> None:
    """Plan, print the summary, and write the plan."""
    arguments = parse_plan(words)
    # After parsing, so that --help and wrong options answer at once.
    from jaxml.files import write_json
    from jaxml.planning import figure, summary, targets
    from jaxml.planning.plan import plan
    from jaxml.planning.program import data_set
    from jaxml.reports.output import output_folder

    target = targets.target(arguments.target)
    images, classes = data_set(arguments.config, arguments.images, arguments.classes)
    name = arguments.preset.removesuffix(".json").replace("/", "-")
    out = arguments.out or f"runs/plan-{name}-{target.name.replace(':', '-')}"
    with output_folder(out, "plan") as place:
        found = plan(arguments.config, target, images, classes, search=arguments.largest, say=say)
        write_json(place / "plan.json", found.to_dict())
        figure.draw(found, place / "plan.png")
    print("\n".join(summary.summary(found)))
    print(f"written: {out}/plan.json and plan.png")
    sys.exit(0 if found.fits else DOES_NOT_FIT)
