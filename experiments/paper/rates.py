"""Choose the learning rate of each formula for the budget large, on validation classes.

    python -m experiments.paper.rates --data_root CUB_200_2011
    cp runs/rates/rates.json experiments/results/ && python -m experiments.paper.readme

Each trial is a row of rows.py with a quarter of the budget's steps and one of the learning rates in `TRIED`. rates.json
has the highest NMI of the validation classes for each. Finished trials are skipped and stopped ones go on, so that the
same command can be given again. No image of the species 101 to 200 is read. A trial takes about two minutes on two CPU
cores. The best rates stand in `rows.LARGE_RATES`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from experiments.paper.rows import BUDGETS, PRESET, ROWS, changes
from jaxml import config as configs
from jaxml.commands.options import also, parse, preset
from jaxml.commands.process import command
from jaxml.commands.tune import validation_nmi, without_test_classes
from jaxml.files import write_json

TRIED = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
STAND_FOR_ALL = ("a_random", "b_hinge", "b_square", "b_soft")
"""The rows that stand for all rows of their model and formula."""
STEPS = BUDGETS["large"]["train.steps"] // 4


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Where the data set is, and in which folder to run."""

    data_root: Annotated[str, also("--data.root")]
    """Folder of CUB-200-2011."""
    workdir: str = "runs/rates"
    """Folder for runs and rates.json."""


def main(words: list[str]) -> None:
    """Run all trials, and print which rate is best for each row."""
    arguments = parse(Arguments, words, __doc__)
    workdir, found = Path(arguments.workdir), []
    for row in [row for row in ROWS if row.name in STAND_FOR_ALL]:
        for rate in TRIED:
            config = configs.override(
                preset(PRESET),
                {
                    **changes(row, "large"),
                    "data.root": arguments.data_root,
                    "optim.learning_rate": rate,
                    "train.steps": STEPS,
                    "train.eval_every": STEPS,
                    "train.save_every": STEPS,
                },
            )
            nmi = validation_nmi(without_test_classes(config), workdir / row.name / f"{rate:g}")
            found.append({"row": row.name, "learning_rate": rate, "val_nmi": nmi})
            write_json(workdir / "rates.json", found)
    for name in STAND_FOR_ALL:
        best = max((trial for trial in found if trial["row"] == name), key=lambda trial: trial["val_nmi"])
        print(f"{name}: learning rate {best['learning_rate']:g}, validation NMI {best['val_nmi']:.3f}")


def table(found: list[dict[str, Any]]) -> str:
    """The Markdown table of the trials, a line for each row of rows.py."""
    titles = {row.name: row.title for row in ROWS}
    text = (
        "The learning rates of that budget were chosen by the NMI of the 20 species that validate, after a quarter of "
        "its steps, one training seed:\n\n"
        f"| | {' | '.join(f'{rate:g}' for rate in TRIED)} |\n{'|---' * (len(TRIED) + 1)}|\n"
    )
    for name in STAND_FOR_ALL:
        cells = [f"{trial['val_nmi']:.3f}" for rate in TRIED for trial in found if _is(trial, name, rate)]
        text += (
            f"| {'Model A' if name.startswith('a_') else 'Model B'}, {titles[name]} | {' | '.join(cells)} |\n"
        )
    return text


def _is(trial: dict[str, Any], name: str, rate: float) -> bool:
    return (trial["row"], trial["learning_rate"]) == (name, rate)


if __name__ == "__main__":
    command(main)
