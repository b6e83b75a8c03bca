"""Configurations: saving and loading, changes, comparison, invalid values, and the command line."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from jaxml import config as configs
from jaxml.commands import options
from jaxml.commands.train import parse_train
from jaxml.config import Config, Data, Loss, Optim, Train
from jaxml.config.checks import described
from jaxml.config.presets import CATALOGUE, PRESETS, SPACES
from jaxml.errors import RunError
from jaxml.files import write_json
from jaxml.training import provenance, train
from tests.training.test_run import Stop, StopAt, pictures  # noqa: F401

WRITTEN_BY_983F5AC = Path(__file__).parent / "fixtures/config_983f5ac.json"
WHOLE_NUMBERS = [name for name, schema in configs.options().items() if schema["type"] == "integer"]


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name, tmp_path):
    config = replace(PRESETS[name], optim=Optim(groups=(("backbone/.*", 0.1), (".*bias", 0.0))))
    configs.save(tmp_path / "config.json", config)
    assert configs.load(tmp_path / "config.json") == config


def test_a_configuration_of_an_earlier_version_is_read_and_written_unchanged(tmp_path):
    config = configs.load(WRITTEN_BY_983F5AC)
    assert config.loss == Loss("triplet", (("margin", 0.3), ("formula", "soft"), ("mining", "local")), 0.001)
    assert config.optim.groups == (("backbone/.*", 0.1), ("head/.*", 2.0))
    configs.save(tmp_path / "config.json", config)
    written = json.loads((tmp_path / "config.json").read_text())
    earlier, default = json.loads(WRITTEN_BY_983F5AC.read_text()), configs.to_dict(Config())
    # Options that have come since then are at their defaults; without them the file is the same, byte for byte.
    added = {(name, option) for name, options in written.items() for option in options}
    added -= {(name, option) for name, options in earlier.items() for option in options}
    for name, option in added:
        assert written[name].pop(option) == default[name][option], (name, option)
    write_json(tmp_path / "earlier.json", {name: options for name, options in written.items() if options})
    assert (tmp_path / "earlier.json").read_text() == WRITTEN_BY_983F5AC.read_text()


def test_a_run_of_an_earlier_version_goes_on(pictures, tmp_path):  # noqa: F811
    written = json.loads(WRITTEN_BY_983F5AC.read_text())
    written["data"] |= {"root": str(pictures), "cache": str(tmp_path / "cache")}
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(written))
    words = ["--workdir", str(workdir), "--resume"]
    with pytest.raises(Stop):
        train.learn(parse_train(words).config, workdir, resume=True, callbacks=[StopAt(4)])
    opened = train.learn(parse_train(words).config, workdir, resume=True)
    assert int(opened.state.step) == 6
    # A checkpoint of that version holds the same configuration.
    provenance.check_config(3, {"config": written}, opened.config)
    with pytest.raises(RunError, match=r"train\.seed: 0 -> 1"):
        train.learn(parse_train([*words, "--train.seed", "1"]).config, workdir, resume=True)


def test_options_are_overridden_by_name():
    changes = {"train.steps": 150, "loss.name": "lifted", "data.crop_area": (0.5, 1), "data.flip": False}
    found = configs.override(PRESETS["glyphs_simple"], changes)
    assert (found.train.steps, found.loss.name, found.data.flip) == (150, "lifted", False)
    assert found.data.crop_area == (0.5, 1.0)
    assert found.loss.options == (("margin", 0.2),)
    assert configs.override(PRESETS["glyphs_simple"], {}) == PRESETS["glyphs_simple"]


def test_hyper_parameters_of_a_loss_are_overridden_one_by_one():
    base = replace(Config(), loss=Loss(options=(("margin", 0.2), ("mining", "local"))))
    found = configs.override(base, {"loss.options.margin": 0.3, "loss.options.swap": True})
    assert found.loss.options == (("margin", 0.3), ("mining", "local"), ("swap", True))
    assert configs.override(found, {"loss.options": ()}).loss.options == ()


@pytest.mark.parametrize(
    "name", ["train.stepz", "trian.steps", "train", "", "train.steps.more", "optim.groups.a"]
)
def test_an_override_of_an_unknown_option_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"unknown configuration options? '{name}'.*train\.steps|{name}.*known"
    ):
        configs.override(Config(), {name: 3})


@pytest.mark.parametrize("old", PRESETS)
@pytest.mark.parametrize("new", PRESETS)
def test_changes_lead_from_one_configuration_to_another(old, new):
    changes = configs.changes(PRESETS[old], PRESETS[new])
    assert configs.override(PRESETS[old], changes) == PRESETS[new]
    assert (changes == {}) == (old == new)
    words = options.train_options(old, changes)
    assert parse_train(shlex.split(words)).config == PRESETS[new]


def test_presets_say_what_to_expect():
    for name, preset in CATALOGUE.items():
        assert f"--preset {name}" in preset.about
        assert preset.changes
        assert all(key.split(".")[0] in configs.SECTIONS for key in preset.space)
    assert set(SPACES) <= set(PRESETS)


def test_help_shows_presets_choices_limits_and_defaults(capsys):
    with pytest.raises(SystemExit):
        parse_train(["--preset", "cub_best", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, preset in CATALOGUE.items():
        assert f"{name}: {' '.join(preset.about.split())}" in shown
    for name, schema in configs.options().items():
        assert f"--{name}" in shown
        assert described(schema) in shown
        assert f"{{{','.join(schema.get('enum', ['train', 'train+val']))}}}" in shown
    assert "Optimiser steps. At least 1. (default: 700)" in shown


def test_differences_name_option_and_values():
    new = replace(Config(), train=Train(steps=7), loss=Loss(options=(("margin", 0.3),)))
    lines = configs.differences(Config(), new)
    assert lines == ["loss.options: [] -> [['margin', 0.3]]", "train.steps: 1000 -> 7"]


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match=r"data\.rot.*known:.*data\.root"):
        configs.from_dict({"data": {"rot": "x"}})


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("train", {"steps": 0}, "^--train.steps is 0; it must be at least 1$"),
        ("data", {"input": "disk"}, "^--data.input is 'disk'; it must be resident or tf_data$"),
        ("data", {"crop_area": (0.5, 1.5)}, "^--data.crop_area has 1.5; it must be at most 1$"),
        (
            "data",
            {"crop_area": (0.9, 0.5)},
            "^--data.crop_area is .0.9, 0.5.; it must be .* in ascending order$",
        ),
        (
            "train",
            {"steps_per_call": 3},
            "^--train.steps is 1000; it must be a multiple of .*steps_per_call, which is 3$",
        ),
    ],
)
def test_impossible_values_are_refused(section, value, message):
    part = {"train": Train, "data": Data}[section]
    with pytest.raises(ValueError, match=message):
        Config(**{section: part(**value)})


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
@pytest.mark.parametrize("value", [10_000_000_000, -10_000_000_000])
def test_whole_numbers_that_are_far_too_large_are_named(name, value):
    section, key = name.split(".")
    with pytest.raises(ValueError, match=rf"^--{re.escape(name)} is {value}; it must be at (most|least) "):
        configs.from_dict({section: {key: value}})


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("loss", {"options": [["margin", 10**10]]}, r"loss\.options has 10000000000; it must be at most"),
        ("eval", {"kmeans_seeds": 5_000_000}, r"eval\.kmeans_seeds is 5000000; it must be at most 1000"),
        ("optim", {"learning_rate": 10**400}, r"optim\.learning_rate is 1000.*; it must be a finite number"),
        ("optim", {"weight_decay": 1e39}, r"optim\.weight_decay is 1e\+39; it must be at most 3\.4e\+38"),
        (
            "optim",
            {"groups": [["a{99999999999}", 1]]},
            r"optim\.groups has .*; it must be a regular expression",
        ),
        ("train", {"steps": 10**5000}, r"train\.steps is .*; it must be at most"),
    ],
)
def test_other_numbers_that_no_device_can_hold_are_named(section, values, named):
    with pytest.raises(ValueError, match=named):
        configs.from_dict({section: values})


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("model", {"frozen_stages": -1}, "^--model.frozen_stages is -1; it must be at least 0$"),
        ("optim", {"layer_decay": 0}, "^--optim.layer_decay is 0; it must be more than 0$"),
        ("optim", {"layer_decay": 1.1}, "^--optim.layer_decay is 1.1; it must be at most 1$"),
        ("train", {"ema": 1}, "^--train.ema is 1; it must be less than 1$"),
        ("eval", {"crops": []}, r"^--eval.crops is \[\]; it must be at least one share$"),
        ("eval", {"crops": [0.5, 0]}, "^--eval.crops has 0; it must be more than 0$"),
    ],
)
def test_shares_and_decays_have_limits(section, values, message):
    with pytest.raises(ValueError, match=message):
        configs.from_dict({section: values})


@pytest.mark.parametrize("depth", [900, 100_000])
@pytest.mark.parametrize("text", ["{}", '{{"loss": {{"options": {}}}}}'])
def test_deep_json_is_one_line(depth, text, tmp_path):
    path = tmp_path / "deep.json"
    path.write_text(text.format("[" * depth + "]" * depth))
    for load in (configs.load, lambda path: parse_train(["--preset", str(path)])):
        with pytest.raises(ValueError, match=r"deep\.json") as caught:
            load(str(path))
        assert len(str(caught.value)) < 600


def test_command_line_overrides_the_preset():
    words = ["--preset", "cub_squeezenet", "--data.root", "birds", "--data.no_flip", "--train.steps", "5"]
    words += ["--loss.options", "margin", "0.3", "formula", "soft", "--optim.groups", "backbone/.*", "0"]
    arguments = parse_train(words)
    config = arguments.config
    assert config.model.backbone == PRESETS["cub_squeezenet"].model.backbone
    assert (config.data.root, config.data.flip, config.train.steps) == ("birds", False, 5)
    assert config.loss.options == (("margin", 0.3), ("formula", "soft"))
    assert config.optim.groups == (("backbone/.*", 0.0),)
    assert arguments.workdir == "runs/cub_squeezenet"


def test_resuming_starts_from_the_saved_configuration(tmp_path):
    saved = replace(Config(), train=Train(steps=123))
    configs.save(tmp_path / "config.json", saved)
    assert parse_train(["--workdir", str(tmp_path), "--resume"]).config == saved
    assert parse_train(["--workdir", str(tmp_path)]).config == PRESETS["glyphs_simple"]


@pytest.mark.parametrize("words", [["--data.rot", "x"], ["--train.steps", "many"], ["--preset", "none"]])
def test_wrong_words_exit_with_two(words, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse_train(words)
    assert exit_info.value.code == 2
    assert words[0] in "".join(capsys.readouterr())


def test_an_empty_workdir_is_the_presets_own_and_not_the_current_folder():
    assert parse_train(["--workdir", ""]).workdir == "runs/glyphs_simple"


@pytest.mark.parametrize(
    "words", ["--train.steps 0", "--data.crop_area 0.5 1.5", "--loss.options margin 10000000000"]
)
def test_a_value_that_an_option_cannot_have_is_one_line(words):
    with pytest.raises(ValueError, match=f"^{words.split()[0]} (is|has) .*; it must be at ") as caught:
        parse_train(words.split())
    assert "\n" not in str(caught.value)


def test_numbers_of_a_section_have_one_form_however_they_were_given():
    given = Config(optim=Optim(learning_rate=1, groups=[["head/.*", 2]]))
    assert isinstance(given.optim.learning_rate, float)
    assert given.optim.groups == (("head/.*", 2.0),)
    assert hash(given) == hash(
        configs.from_dict({"optim": {"learning_rate": 1.0, "groups": [["head/.*", 2]]}})
    )


def test_yaml_is_read_as_json_is(tmp_path):
    """Numbers without a point before their exponent included, which YAML 1.1 takes for text."""
    (tmp_path / "mine.yaml").write_text(
        "data: {split: 0-59/60-79/80-99, crop_area: [0.4, 1]}\n"
        "loss:  # of Schroff et al.\n  name: triplet\n  options: [[margin, 2e-1], [formula, soft]]\n"
        "optim:\n  learning_rate: 1e-3\n  groups:\n    - ['backbone/.*', 1.5e-1]\n"
        "train: {steps: 300}\n"
    )
    values = {
        "data": {"split": "0-59/60-79/80-99", "crop_area": [0.4, 1]},
        "loss": {"name": "triplet", "options": [["margin", 2e-1], ["formula", "soft"]]},
        "optim": {"learning_rate": 1e-3, "groups": [["backbone/.*", 1.5e-1]]},
        "train": {"steps": 300},
    }
    (tmp_path / "mine.json").write_text(json.dumps(values))
    expected = configs.load(tmp_path / "mine.json")
    assert configs.load(tmp_path / "mine.yaml") == expected
    assert parse_train(["--preset", str(tmp_path / "mine.yaml")]).config == expected
    assert parse_train(["--preset", str(tmp_path / "mine.yaml")]).workdir == "runs/mine"
    for config in PRESETS.values():
        (tmp_path / "preset.yml").write_text(yaml.safe_dump(configs.to_dict(config)))
        assert configs.load(tmp_path / "preset.yml") == config
    (tmp_path / "empty.yaml").touch()
    assert configs.load(tmp_path / "empty.yaml") == Config()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("train: {steps: 1, steps: 2}", "is no YAML file: a name is given twice in .*line 1, column 8"),
        ("a: &a [1]\nb: *a", r"is no YAML file: aliases \(\*\) are not read in .*line 2, column 4"),
        ("x: !!python/object/apply:os.getcwd []", "is no YAML file: could not determine a constructor"),
        ("x: 2026-13-41", "is no YAML file: "),
        ("[" * 100_000, "is no YAML file that can be read: it is nested too deeply"),
        ("- 1", "a configuration is a table of data, model"),
        ("train: 3", "the train options of a configuration are 3; they must be a table"),
        ("optim: {learning_rate: fast}", "--optim.learning_rate is 'fast'; it must be"),
    ],
)
def test_a_wrong_yaml_file_is_one_line(tmp_path, text, named):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"mine.yaml:? .*{named}") as caught:
        configs.load(path)
    assert len(str(caught.value).splitlines()) == 1
