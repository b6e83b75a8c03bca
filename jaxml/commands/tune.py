"""Search a preset's options for the highest NMI of validation classes.

    jaxml tune --preset cub_squeezenet --data_root CUB_200_2011 --weights FILE --trials 30
    jaxml train --preset runs/tune/best.json --workdir runs/best

`jaxml.config.presets` says which options are varied; best.json is the preset with the best of them. Needs Optuna, which
the extra `tune` brings. Each trial is a run in WORKDIR/trial_NNN, the study is WORKDIR/study.db. The same command after
a stop continues the study, within a trial too, and more --trials extend it; it tries the same options however often it
was stopped. WORKDIR/depends_on.json holds what is not varied (preset, steps, seed, data and weights), and a study does
not continue with anything else. One process at a time works on a study.

No test class can be read: the split that trials get has none, and the images of all other classes are taken out of the
data set before a trial sees it. A trial takes as long as a run of the preset.

Exit codes: 0 finished, 1 an error that the last line names, 2 wrong options, 75 stopped by SIGTERM and saved.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge

from jaxml import config as configs
from jaxml.commands.options import also, parse, preset
from jaxml.config import Config
from jaxml.config.checks import options
from jaxml.config.presets import SPACES
from jaxml.config.values import Count, Int, Seed
from jaxml.errors import RunError
from jaxml.training import records

if TYPE_CHECKING:
    from optuna import Study

Space = Mapping[str, tuple[Any, ...]]
"""What is varied: see `jaxml.config.presets.Preset.space`."""


@options
@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to tune and for how long."""

    preset: str = "glyphs_simple"
    """Name of a preset in jaxml.config.presets.SPACES."""
    data_root: Annotated[str, also("--data.root")] = ""
    """Folder of the data set."""
    weights: Annotated[str, also("--model.weights")] = ""
    """Pretrained weights of the backbone (safetensors)."""
    steps: Annotated[Int, Ge(0), also("--train.steps")] = 0
    """Steps of a trial; 0 takes the preset's."""
    trials: Count = 20
    """Number of finished trials at which to stop, those of earlier calls included."""
    seed: Annotated[Seed, also("--train.seed")] = 0
    """Seed of the search and of every training."""
    devices: Annotated[Int, Ge(0), also("--train.devices")] = 0
    """Devices to train on; 0 takes all."""
    workdir: str = "runs/tune"
    """Folder for the study, its runs and best.json."""


def main(words: list[str]) -> None:
    """Tune, and say where the best options are."""
    arguments = parse(Arguments, words, __doc__)
    if not arguments.workdir:
        raise ValueError("--workdir is empty; leave it out, or name a folder")
    if arguments.preset not in SPACES:
        raise ValueError(f"--preset is {arguments.preset!r}; there are search spaces for {', '.join(SPACES)}")
    changes = {
        "data.root": arguments.data_root,
        "model.weights": arguments.weights,
        "train.steps": arguments.steps,
        "train.seed": arguments.seed,
        "train.devices": arguments.devices,
    }
    base = configs.override(
        preset(arguments.preset), {name: value for name, value in changes.items() if value}
    )
    best = tune(base, SPACES[arguments.preset], Path(arguments.workdir), trials=arguments.trials)
    print(f"best: {Path(arguments.workdir) / 'best.json'}, validation NMI {best:.4f}")


def tune(base: Config, space: Space, workdir: Path, *, trials: int) -> float:
    """Run trials until so many are finished; writes `best.json` after each and returns the best NMI.

    Raises:
        RunError: the folder holds a study of something else, another process works on it, or all trials failed.
    """
    try:
        from optuna.trial import TrialState
    except ImportError as error:
        raise ValueError("tuning needs Optuna: `pip install jaxml[tune]`") from error
    from jaxml.training import start

    base = start.from_anywhere(base)
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
            succeeded = any(trial.state == TrialState.COMPLETE for trial in finished)
            if succeeded:
                configs.save(workdir / "best.json", configs.override(base, study.best_params))
            if len(finished) >= trials:
                break
            _try_one(study, space, blind, workdir)
    if not succeeded:
        raise RunError(f"all {trials} trials in {workdir} failed; see what they printed")
    return study.best_value


def _study(path: Path) -> Study:
    """Open the study in the file, or make a new one.

    Raises:
        RunError: the file is damaged.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    # Not by a URL, in which some characters of a path have a special meaning.
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
    raise RunError(f"{path} cannot be used ({problem}); put a copy of it back, or choose another --workdir")


def _try_one(study: Study, space: Space, blind: Config, workdir: Path) -> None:
    """Continue the trial that was stopped, or ask for a new one, and tell the study its score."""
    from optuna.trial import TrialState

    from jaxml.errors import TrainingFailed

    stopped = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    number, options = (stopped[0].number, stopped[0].params) if stopped else _asked(study, space, blind)
    if options.keys() != space.keys():  # the process was killed before all options were drawn
        study.tell(number, state=TrialState.FAIL)
        return
    # In the order of the space, for the order of a loss's hyper-parameters is part of a run's configuration.
    options = {name: options[name] for name in space}
    print(f"\n== trial {number}: {options}", flush=True)
    try:
        value = validation_nmi(configs.override(blind, options), workdir / f"trial_{number:03d}")
    except TrainingFailed as error:
        print(f"trial {number} failed: {error}")
        study.tell(number, state=TrialState.PRUNED)
    else:
        study.tell(number, value)


def without_test_classes(config: Config) -> Config:
    """The configuration with a split into classes for training and validation only."""
    from jaxml import data
    from jaxml.data import splits

    index = data.load(config.data)
    split = splits.without_test(config.data.split, len(index.class_names), index.split)
    return configs.override(config, {"data.split": split, "data.train_on": "train"})


def validation_nmi(config: Config, folder: Path) -> float:
    """Train in the folder, or continue there; returns the highest NMI of the validations."""
    from jaxml.training import history, train

    resume = (folder / "config.json").exists()
    train.learn(config, folder, resume=resume, go_on="give the same command again to continue the study")
    return max(row["val_nmi"] for row in history.read(folder / "metrics.jsonl") if "val_nmi" in row)


def _asked(study: Study, space: Space, blind: Config) -> tuple[int, dict[str, Any]]:
    """A new trial's number and options, which depend only on the seed, that number and the trials before it."""
    import optuna

    # A sampler with the seed itself would start over after each stop and ask for the first options again.
    seed = np.random.SeedSequence((blind.train.seed, len(study.trials))).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(seed[0]))
    trial = study.ask()
    options: dict[str, Any] = {}
    for name, (kind, *values) in space.items():
        if kind == "choice":
            options[name] = trial.suggest_categorical(name, values)
        else:
            options[name] = trial.suggest_float(name, *values, log=kind == "log")
    return trial.number, options
