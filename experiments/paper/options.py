"""What each option gives on birds: short runs that learn from the species 1 to 80, scored on the species 81 to 100.

    python -m experiments.paper.options --data_root CUB_200_2011
    python -m experiments.paper.options --data_root CUB_200_2011 --only base avg --seeds 0 1 2

Each trial is the preset cub_lite0 with a shorter training and what the trial changes; where it is of another trial,
nothing is trained, and the network of that one embeds in another way. Finished trials are skipped and stopped ones go
on, so that the same command can be given again. Writes options.json and options.md into WORKDIR after every trial. No
image of the species 101 to 200 is read. A trial takes five to fifteen minutes on two CPU cores. What was found is kept:

    cp runs/options/options.json experiments/results/ && python -m experiments.paper.readme
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from jaxml import config as configs
from jaxml.commands.options import also, parse, preset
from jaxml.commands.process import command
from jaxml.config import Config
from jaxml.config.values import Seed
from jaxml.data.splits import without_test
from jaxml.files import parse_json, write_atomically, write_json

PRESET = "cub_lite0"
CLASSES = 200
BUDGET: Mapping[str, Any] = {
    "data.split": without_test("standard", CLASSES),
    "data.train_on": "train",
    "data.classes_per_batch": 16,
    "train.steps": 200,
    "train.eval_every": 200,
    "train.save_every": 200,
    "optim.warmup_steps": 20,
}
"""What all trials share: 12,800 images."""
METRICS = {"nmi": "NMI", "f1": "F1", "recall@1": "R@1"}


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is changed of the preset, or of the way in which the network of another trial embeds."""

    title: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    of: str = ""
    """The trial whose network embeds; that of its own training if empty."""
    teacher: str = ""
    """The trial from whose network this one learns."""
    whiten: int = 0
    """Dimensions to which PCA with whitening reduces the embedding."""


RANDOM = {
    "model.head_init": "random",
    "optim.learning_rate": 1e-3,
    "optim.groups": (("backbone/.*", 0.1),),
}
WIDE = {"model.feature_size": 512}
TRIALS = {
    "base": Trial("the preset"),
    "random_head": Trial("a head of random numbers, at its learning rate", RANDOM),
    "avg": Trial("average pooling", {"model.pooling": "avg"}),
    "avg_max": Trial("sum of average and maximum pooling", {"model.pooling": "avg+max"}),
    "frozen_3": Trial("three frozen stages in place of six", {"model.frozen_stages": 3}),
    "all_stages": Trial("all stages are trained", {"model.frozen_stages": 0}),
    "layer_decay": Trial("learning rates that shrink by 0.7 a stage", {"optim.layer_decay": 0.7}),
    "ema": Trial("moving average of the parameters", {"train.ema": 0.98}),
    "no_mirror": Trial("without the mirror image", {"eval.mirror": False}, of="base"),
    "size": Trial("embedded at the size of training", {"eval.size": 0}, of="base"),
    "crops": Trial("mean over two central crops", {"eval.crops": (0.875, 1.0)}, of="base"),
    "wide": Trial("512 dimensions", WIDE),
    "pca": Trial("512 dimensions, then PCA with whitening to 64", of="wide", whiten=64),
    "nested": Trial(
        "the first 64 of 512 dimensions, trained together",
        {**WIDE, "loss.nested_sizes": (64, 128), "eval.feature_size": 64},
    ),
    "nested_wide": Trial("all 512 of these", {"eval.feature_size": 0}, of="nested"),
    "distilled": Trial("learns from the 512 dimensions too", teacher="wide"),
    "distilled_alone": Trial(
        "learns from the 512 dimensions alone", {"distill.loss_weight": 0.0}, teacher="wide"
    ),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which trials to run, and in which folder."""

    data_root: Annotated[str, also("--data.root")]
    """Folder of CUB-200-2011."""
    only: tuple[str, ...] = ()
    """Names of trials; all by default."""
    seeds: tuple[Seed, ...] = (0,)
    """Training seeds."""
    workdir: str = "runs/options"
    """Folder for runs and tables."""


def main(words: list[str]) -> None:
    """Run the trials that are asked for, those they need before them, and print the table."""
    arguments = parse(Arguments, words, __doc__)
    if unknown := sorted({*arguments.only} - {*TRIALS}):
        raise ValueError(f"--only {' '.join(unknown)} is unknown; the trials are {', '.join(TRIALS)}")
    asked = arguments.only or tuple(TRIALS)
    needed = {TRIALS[name].of or TRIALS[name].teacher for name in asked}
    workdir, lines = Path(arguments.workdir), []
    for name in [name for name in TRIALS if name in asked or name in needed]:
        scores = [
            _measured(name, seed, workdir, arguments.data_root, TRIALS[name]) for seed in arguments.seeds
        ]
        lines.append({"trial": name, "title": TRIALS[name].title, "seeds": arguments.seeds, **_over(scores)})
        write_json(workdir / "options.json", lines)
        write_atomically(workdir / "options.md", table(lines))
    print(table(lines))


def configuration(trial: Trial, seed: int, data_root: str, teacher: str = "") -> Config:
    """The configuration of a trial that is trained."""
    places = {"data.root": data_root, "distill.teacher": teacher, "train.seed": seed}
    return configs.override(preset(PRESET), {**BUDGET, **trial.changes, **places})


def table(lines: list[dict[str, Any]]) -> str:
    """The Markdown table of the trials, each beside its difference from the first one."""
    head = [
        "| trial | " + " | ".join(METRICS.values()) + " | difference |",
        "|---|" + "---|" * (len(METRICS) + 1),
    ]
    rows = []
    for line in lines:
        scores = " | ".join(_number(*line[key], seeds=len(line["seeds"])) for key in METRICS)
        difference = ", ".join(f"{line[key][0] - lines[0][key][0]:+.3f}" for key in METRICS)
        rows.append(f"| {line['title']} (`{line['trial']}`) | {scores} | {difference} |")
    return "\n".join([*head, *rows, ""])


def _number(mean: float, deviation: float, seeds: int) -> str:
    return f"{mean:.3f} ± {deviation:.3f}" if seeds > 1 else f"{mean:.3f}"


def _measured(name: str, seed: int, workdir: Path, data_root: str, trial: Trial) -> dict[str, float]:
    """Scores of the validation classes of a trial, which is run unless it is finished."""
    from jaxml.training import results, run, train

    if not trial.of:
        folder = workdir / name / str(seed)
        teacher = str(workdir / trial.teacher / str(seed)) if trial.teacher else ""
        config = configuration(trial, seed, data_root, teacher)
        done = folder / results.RESULTS
        if done.exists():
            return parse_json(done.read_bytes(), done)["val"]
        print(f"\n== {name}: {trial.title}, seed {seed}", flush=True)
        return train.train(config, folder, resume=(folder / "config.json").exists())["val"]
    opened = run.load(workdir / trial.of / str(seed), data_root=data_root)
    rows = opened.images.rows("val")
    if trial.whiten:
        return results.whitened(opened, rows, trial.whiten)[f"embedding, PCA to {trial.whiten}"]
    config = configs.override(opened.config, trial.changes)
    opened = dataclasses.replace(opened, learner=dataclasses.replace(opened.learner, config=config))
    return results.score(opened, opened.embed(rows), rows)


def _over(scores: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over seeds of the metrics of the table."""
    found = {}
    for key in METRICS:
        values = [score[key] for score in scores]
        found[key] = (float(np.mean(values)), float(np.std(values)))
    return found


if __name__ == "__main__":
    command(main)
