"""Search a preset's options for the highest NMI of validation classes, and write the best as a preset.

    python experiments/tune.py --preset cub_squeezenet --data_root CUB_200_2011 --weights FILE --trials 30
    python experiments/train.py --preset runs/tune/best.json --workdir runs/best

What is varied stands in `jaxml.presets.SPACES`. Needs Optuna: pip install -e .[tune]. Each trial is a run in
WORKDIR/trial_NNN, the study is WORKDIR/study.db; the same command after a stop goes on where it was, in the middle of a
trial too, and more --trials extend a study. However often it is stopped, it tries the same options. What is not varied
(preset, steps, seed, data and weights) is in WORKDIR/depends_on.json, and a study does not go on with anything else.
One process at a time works on a study.

Test classes cannot be read: the split that trials get has none, and the images of all other classes are taken out of
the data set before a trial sees it. A trial takes as long as a run of the preset.

Exit codes: 0 finished, 1 an error that the last line names, 2 wrong options, 75 stopped by SIGTERM and saved.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from jaxml import config as configs
from jaxml.arguments import whole
from jaxml.cli import also, command, preset
from jaxml.config import Config
from jaxml.errors import RunError
from jaxml.presets import SPACES
from jaxml.training import records

if TYPE_CHECKING:
    from optuna import Study


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to tune and for how long."""

    preset: str = "glyphs_simple"
    """Name of a preset in jaxml.presets.SPACES."""
    data_root: Annotated[str, also("--data.root")] = ""
    """Folder of the data set."""
    weights: Annotated[str, also("--model.weights")] = ""
    """Pretrained weights of the backbone (safetensors)."""
    steps: Annotated[int, also("--train.steps")] = 0
    """Steps of a trial; 0 takes the preset's."""
    trials: int = 20
    """Finished trials after which to stop, those of earlier calls included."""
    seed: Annotated[int, also("--train.seed")] = 0
    """Of the search, and of every training."""
    devices: Annotated[int, also("--train.devices")] = 0
    """Devices to train on; 0 takes all."""
    workdir: str = "runs/tune"
    """Where study, runs and best.json go."""


def main(words: list[str]) -> None:
    arguments = tyro.cli(Arguments, args=words, description=__doc__, use_underscores=True)
    if not arguments.workdir:
        raise ValueError("--workdir is empty; leave it out, or name a folder")
    if arguments.preset not in SPACES:
        raise ValueError(f"--preset is {arguments.preset!r}; there are search spaces for {', '.join(SPACES)}")
    whole("--trials", arguments.trials)
    whole("--steps", arguments.steps, minimum=0)
    whole("--seed", arguments.seed, minimum=0, maximum=2**32 - 1)
    whole("--devices", arguments.devices, minimum=0)
    base = preset(arguments.preset)
    changes = {
        "data.root": arguments.data_root,
        "model.weights": arguments.weights,
        "train.steps": arguments.steps,
        "train.seed": arguments.seed,
        "train.devices": arguments.devices,
    }
    base = changed(base, {name: value for name, value in changes.items() if value})
    best = tune(base, SPACES[arguments.preset], Path(arguments.workdir), trials=arguments.trials)
    print(f"best: {Path(arguments.workdir) / 'best.json'}, validation NMI {best:.4f}")


def tune(base: Config, space: dict[str, tuple], workdir: Path, *, trials: int) -> float:
    """Run trials until that many are finished; writes `best.json` after each and returns the best NMI.

    Raises:
      RunError: the folder holds a study of something else, another process works on it, or all trials failed.
    """
    try:
        from optuna.trial import TrialState
    except ImportError as error:
        raise ValueError("tuning needs Optuna: pip install -e .[tune]") from error

    wanted = {
        **records.contents(base),
        **{f"space.{name}": values for name, values in space.items()},
        "config": configs.to_dict(base),
    }
    blind = without_test_classes(base)
    with records.held(workdir):
        used = any(True for name in ("study.db", "trial_*") for _ in workdir.glob(name))
        records.claim(workdir, wanted, used=used)
        study = _study(workdir / "study.db")
        while True:
            finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
            found = any(trial.state == TrialState.COMPLETE for trial in finished)
            if found:
                configs.save(workdir / "best.json", changed(base, study.best_params))
            if len(finished) >= trials:
                break
            _try_one(study, space, blind, workdir)
    if not found:
        raise RunError(f"all {trials} trials in {workdir} failed; see what they printed")
    return study.best_value


def _study(path: Path) -> Study:
    """The study in the file, or a new one."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    # Not by a URL, in which some letters of a path have a meaning of their own.
    connect = partial(sqlite3.connect, path, check_same_thread=False)
    try:
        with closing(connect()) as connection:
            (problem,) = connection.execute("PRAGMA integrity_check").fetchone()
        if problem == "ok":
            return optuna.create_study(
                storage=optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect}),
                study_name="jaxml",
                load_if_exists=True,
                direction="maximize",
            )
    except (sqlite3.Error, SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        problem = str(error)
    problem = " ".join(problem.split())[:200]
    raise RunError(f"{path} can not be used ({problem}); put a copy of it back, or choose another --workdir")


def _try_one(study: Study, space: dict[str, tuple], blind: Config, workdir: Path) -> None:
    """Go on with the trial that was stopped, or ask for a new one, and tell the study what came of it."""
    from optuna.trial import TrialState

    from jaxml.errors import TrainingFailed

    stopped = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    number, options = (stopped[0].number, stopped[0].params) if stopped else _asked(study, space, blind)
    if options.keys() != space.keys():  # killed before all options were drawn
        study.tell(number, state=TrialState.FAIL)
        return
    # In the order of the space, for a run is known by its options in their order.
    options = {name: options[name] for name in space}
    print(f"\n== trial {number}: {options}", flush=True)
    try:
        value = validation_nmi(changed(blind, options), workdir / f"trial_{number:03d}")
    except TrainingFailed as error:
        print(f"trial {number} failed: {error}")
        study.tell(number, state=TrialState.PRUNED)
    else:
        study.tell(number, value)


def without_test_classes(config: Config) -> Config:
    """The configuration with its classes for training and validation only."""
    from jaxml import data
    from jaxml.data import splits

    split = splits.without_test(config.data.split, len(data.load(config.data).class_names))
    return changed(config, {"data.split": split, "data.train_on": "train"})


def validation_nmi(config: Config, folder: Path) -> float:
    """Train, or go on training, in the folder; the highest NMI of the validations."""
    from jaxml.training import history, train

    train.learn(config, folder, resume=(folder / "config.json").exists())
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


def _asked(study: Study, space: dict[str, tuple], blind: Config) -> tuple[int, dict[str, Any]]:
    """A new trial's number and options, which depend on the seed, that number and the trials before it alone."""
    import optuna

    # A sampler with the seed itself would begin anew after each stop, and ask for the first options once more.
    seed = np.random.SeedSequence((blind.train.seed, len(study.trials))).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(seed[0]))
    trial = study.ask()
    options = {}
    for name, (kind, *values) in space.items():
        if kind == "choice":
            options[name] = trial.suggest_categorical(name, values)
        else:
            options[name] = trial.suggest_float(name, *values, log=kind == "log")
    return trial.number, options


if __name__ == "__main__":
    command(main)
