"""Configurations: saved and read back, compared, refused where no run can have them; the command line."""

import dataclasses
import re
from dataclasses import replace

import pytest

from jaxml import config as configs
from jaxml.cli import parse_train
from jaxml.config import Config, Data, Loss, Optim, Train
from jaxml.presets import PRESETS


def whole_numbers():
    """Name and value of every option that is a whole number."""
    for section, part in configs.sections(Config()):
        for field in dataclasses.fields(part):
            if field.type is int:
                yield f"{section}.{field.name}", getattr(part, field.name)


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name, tmp_path):
    config = replace(PRESETS[name], optim=Optim(groups=(("backbone/.*", 0.1), (".*bias", 0.0))))
    configs.save(tmp_path / "config.json", config)
    assert configs.load(tmp_path / "config.json") == config


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
        ("train", {"steps": 0}, "train.steps is 0"),
        ("data", {"input": "disk"}, "allowed: resident, tf_data"),
        ("data", {"crop_area": (0.5, 1.5)}, "data.crop_area"),
        ("train", {"steps_per_call": 3}, "multiple of train.steps_per_call"),
    ],
)
def test_impossible_values_are_refused(section, value, message):
    part = {"train": Train, "data": Data}[section]
    with pytest.raises(ValueError, match=message):
        Config(**{section: part(**value)})


@pytest.mark.parametrize("name", [name for name, _ in whole_numbers()])
@pytest.mark.parametrize("value", [10_000_000_000, -10_000_000_000])
def test_whole_numbers_that_are_far_too_large_are_named(name, value):
    section, key = name.split(".")
    with pytest.raises(ValueError, match=rf"{re.escape(name)} is {value}; it must be"):
        configs.from_dict({section: {key: value}})


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("loss", {"options": [["margin", 10**10]]}, r"loss\.options is 10000000000; it must be at most"),
        ("eval", {"kmeans_seeds": 5_000_000}, r"eval\.kmeans_seeds is 5000000; it must be at most 1000"),
        ("optim", {"learning_rate": 10**400}, r"optim\.learning_rate is 1000.*; it must be a finite number"),
        ("optim", {"weight_decay": 1e39}, r"optim\.weight_decay is 1e\+39; it must be a finite number"),
        ("optim", {"groups": [["a{99999999999}", 1]]}, r"optim\.groups: .* is no regular expression"),
    ],
)
def test_other_numbers_that_no_device_can_hold_are_named(section, values, named):
    with pytest.raises(ValueError, match=named):
        configs.from_dict({section: values})


@pytest.mark.parametrize("depth", [900, 100_000])
@pytest.mark.parametrize("text", ["{}", '{{"loss": {{"options": {}}}}}'])
def test_deep_json_is_one_line(depth, text, tmp_path):
    path = tmp_path / "deep.json"
    path.write_text(text.format("[" * depth + "]" * depth))
    for load in (configs.load, lambda path: parse_train(["--preset", str(path)], "")):
        with pytest.raises(ValueError, match=r"deep\.json") as caught:
            load(str(path))
        assert len(str(caught.value)) < 600


def test_command_line_overrides_the_preset():
    words = ["--preset", "cub_squeezenet", "--data.root", "birds", "--data.no_flip", "--train.steps", "5"]
    words += ["--loss.options", "margin", "0.3", "formula", "soft", "--optim.groups", "backbone/.*", "0"]
    arguments = parse_train(words, "")
    config = arguments.config
    assert config.model.backbone == PRESETS["cub_squeezenet"].model.backbone
    assert (config.data.root, config.data.flip, config.train.steps) == ("birds", False, 5)
    assert config.loss.options == (("margin", 0.3), ("formula", "soft"))
    assert config.optim.groups == (("backbone/.*", 0.0),)
    assert arguments.workdir == "runs/cub_squeezenet"


def test_resuming_starts_from_the_saved_configuration(tmp_path):
    saved = replace(Config(), train=Train(steps=123))
    configs.save(tmp_path / "config.json", saved)
    assert parse_train(["--workdir", str(tmp_path), "--resume"], "").config == saved
    assert parse_train(["--workdir", str(tmp_path)], "").config == PRESETS["glyphs_simple"]


@pytest.mark.parametrize("words", [["--data.rot", "x"], ["--train.steps", "many"], ["--preset", "none"]])
def test_wrong_words_exit_with_two(words, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse_train(words, "")
    assert exit_info.value.code == 2
    assert words[0] in "".join(capsys.readouterr())


def test_an_empty_workdir_is_the_presets_own_and_not_the_current_folder():
    assert parse_train(["--workdir", ""], "").workdir == "runs/glyphs_simple"
