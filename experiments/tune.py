"""Search a preset's options for the highest NMI of validation classes, and write the best as a preset.

    python experiments/tune.py --preset cub_squeezenet --data_root CUB_200_2011 --weights FILE --trials 30
    python experiments/train.py --preset runs/tune/best.json --workdir runs/best

What is varied stands in `jaxml.presets.SPACES`. Needs Optuna: pip install -e .[tune]. Each trial is a run in
WORKDIR/trial_NNN, the study is WORKDIR/study.db; the same command after a stop goes on where it was, in the middle of a
trial too, and more --trials extend a study. Test classes cannot be read: the split that trials get has none, and the
images of all other classes are taken out of the data set before a trial sees it. A trial takes as long as a run of the
preset.

Exit codes: 0 finished, 1 an error that the last line names, 2 wrong options, 75 stopped by SIGTERM and saved.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import tyro

from jaxml import config as configs
from jaxml.cli import command, preset
from jaxml.config import Config
from jaxml.presets import SPACES


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to tune and for how long."""

    preset: str = "glyphs_simple"
    """Name of a preset in jaxml.presets.SPACES."""
    data_root: str = ""
    """Folder of the data set."""
    weights: str = ""
    """Pretrained weights of the backbone (safetensors)."""
    steps: int = 0
    """Steps of a trial; 0 takes the preset's."""
    trials: int = 20
    """Finished trials after which to stop, those of earlier calls included."""
    seed: int = 0
    """Of the search, and of every training."""
    workdir: str = "runs/tune"
    """Where study, runs and best.json go."""


def main(words: list[str]) -> None:
    arguments = tyro.cli(Arguments, args=words, description=__doc__, use_underscores=True)
    if arguments.preset not in SPACES:
        raise ValueError(f"--preset is {arguments.preset!r}; there are search spaces for {', '.join(SPACES)}")
    base = preset(arguments.preset)
    changes = {
        "data.root": arguments.data_root,
        "model.weights": arguments.weights,
        "train.steps": arguments.steps,
    }
    base = changed(base, {name: value for name, value in changes.items() if value})
    base = changed(base, {"train.seed": arguments.seed})
    best = tune(base, SPACES[arguments.preset], Path(arguments.workdir), trials=arguments.trials)
    print(f"best: {Path(arguments.workdir) / 'best.json'}, validation NMI {best:.4f}")


def tune(base: Config, space: dict[str, tuple], workdir: Path, *, trials: int) -> float:
    """Run trials until that many are finished; writes `best.json` after each and returns the best NMI."""
    try:
        import optuna
    except ImportError as error:
        raise ValueError("tuning needs Optuna: pip install -e .[tune]") from error
    from jaxml import run

    workdir.mkdir(parents=True, exist_ok=True)
    blind = without_test_classes(base)
    state = optuna.trial.TrialState
    study = optuna.create_study(
        storage=f"sqlite:///{workdir / 'study.db'}",
        study_name="jaxml",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=base.train.seed),
    )
    while len(study.get_trials(deepcopy=False, states=(state.COMPLETE, state.PRUNED))) < trials:
        stopped = study.get_trials(deepcopy=False, states=(state.RUNNING,))
        number, options = (stopped[0].number, stopped[0].params) if stopped else _asked(study.ask(), space)
        if options.keys() != space.keys():  # killed before all options were drawn
            study.tell(number, state=state.FAIL)
            continue
        folder = workdir / f"trial_{number:03d}"
        print(f"\n== trial {number}: {options}", flush=True)
        try:
            value = validation_nmi(changed(blind, options), folder)
        except run.Preempted:
            raise
        except run.RunError as error:
            print(f"trial {number} failed: {error}")
            study.tell(number, state=state.PRUNED)
            continue
        study.tell(number, value)
        configs.save(workdir / "best.json", changed(base, study.best_params))
    if not study.get_trials(deepcopy=False, states=(state.COMPLETE,)):
        raise run.RunError(f"all {trials} trials in {workdir} failed; see what they printed")
    return study.best_value


def without_test_classes(config: Config) -> Config:
    """The configuration with its classes for training and validation only."""
    from jaxml import data
    from jaxml.data import splits

    split = splits.without_test(config.data.split, len(data.load(config.data).class_names))
    return changed(config, {"data.split": split, "data.train_on": "train"})


def validation_nmi(config: Config, folder: Path) -> float:
    """Train, or go on training, in the folder; the highest NMI of the validations."""
    from jaxml import history, run

    run.learn(config, folder, resume=(folder / "config.json").exists())
    return max(row["val_nmi"] for row in history.read(folder / "metrics.jsonl") if "val_nmi" in row)


def changed(config: Config, values: dict[str, Any]) -> Config:
    """The configuration with other values, by `section.option` or `loss.options.NAME`."""
    found: dict[str, Any] = configs.to_dict(config)
    for name, value in values.items():
        section, option, *key = name.split(".")
        found[section][option] = (
            list(({**dict(found[section][option]), key[0]: value}).items()) if key else value
        )
    return configs.from_dict(found)


def _asked(trial: Any, space: dict[str, tuple]) -> tuple[int, dict[str, Any]]:
    """A new trial's number and options."""
    options = {}
    for name, (kind, *values) in space.items():
        if kind == "choice":
            options[name] = trial.suggest_categorical(name, values)
        else:
            options[name] = trial.suggest_float(name, *values, log=kind == "log")
    return trial.number, options


if __name__ == "__main__":
    command(main)
