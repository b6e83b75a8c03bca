"""Configurations of runs: read, written, changed and compared.

`schema` states every option with its default, choices and limits, `run` which of them fit together; `presets` holds the
named configurations.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxml.arguments import shown
from jaxml.config.run import SECTIONS, Config, options
from jaxml.config.schema import Data, Distill, Eval, Loss, Model, Optim, Train, Triplets
from jaxml.config.yaml_files import parse_yaml
from jaxml.files import parse_json, write_json

__all__ = [
    "SECTIONS",
    "SUFFIXES",
    "Config",
    "Data",
    "Distill",
    "Eval",
    "Loss",
    "Model",
    "Optim",
    "Train",
    "Triplets",
    "changes",
    "differences",
    "from_dict",
    "load",
    "options",
    "override",
    "save",
    "to_dict",
]

YAML = (".yaml", ".yml")
SUFFIXES = (".json", *YAML)
"""How the names of files with a configuration end."""


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration as nested dicts and lists, as written to JSON."""
    return json.loads(json.dumps(asdict(config)))


def from_dict(values: Mapping[str, Any]) -> Config:
    """The configuration from a table of sections, each a table of options; options that are not named keep defaults.

    Raises:
        ValueError: an unknown section or option, or a value that an option cannot have.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"a configuration is a table of {', '.join(SECTIONS)}; not {shown(values)}")
    if unknown := [shown(name) for name in values if name not in SECTIONS]:
        raise ValueError(
            f"unknown configuration sections {', '.join(unknown[:5])}; known: {', '.join(SECTIONS)}"
        )
    return Config(**values)


def load(path: str | Path) -> Config:
    """The configuration in a JSON file, such as `save` writes, or in a YAML file (`SUFFIXES`).

    Raises:
        ValueError: the file holds no configuration; names the file and what is wrong.
    """
    parse = parse_yaml if Path(path).suffix in YAML else parse_json
    values = parse(Path(path).read_bytes(), path)
    try:
        return from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def save(path: str | Path, config: Config) -> None:
    """Write a configuration as JSON."""
    write_json(Path(path), to_dict(config))


def override(base: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with other values of the options named.

    Args:
        base: Configuration to start from.
        values: Values by option `section.option`, such as `{"train.steps": 150, "loss.name": "lifted"}`. Of
            `loss.options` one hyper-parameter can be named, as in `loss.options.margin`; the others stay.

    Raises:
        ValueError: an unknown option, or a value that it cannot have.
    """
    found: dict[str, Any] = asdict(base)
    for name, value in values.items():
        section, _, option = name.partition(".")
        option, _, key = option.partition(".")
        if section not in found or (key and (section, option) != ("loss", "options")):
            raise ValueError(f"unknown configuration option {shown(name)}; known: {', '.join(options())}")
        if key:
            value = tuple({**dict(found[section][option]), key: value}.items())
        found[section][option] = value
    return Config(**found)


def changes(old: Config, new: Config) -> dict[str, Any]:
    """Values of `new` by option `section.option`, as far as they differ: `override(old, changes(old, new)) == new`."""
    before, after = (
        {f"{section}.{name}": value for section, part in asdict(c).items() for name, value in part.items()}
        for c in (old, new)
    )
    return {name: value for name, value in after.items() if value != before[name]}


def differences(old: Config, new: Config) -> list[str]:
    """One line `section.option: old -> new` for each option in which two configurations differ."""
    before, after = to_dict(old), to_dict(new)
    lines = []
    for name in changes(old, new):
        section, option = name.split(".")
        lines.append(f"{name}: {before[section][option]!r} -> {after[section][option]!r}")
    return lines
