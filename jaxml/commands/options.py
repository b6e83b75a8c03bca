"""What the verbs share of the command line: options from dataclasses, and presets as their defaults."""

import argparse
import dataclasses
import shlex
from collections.abc import Mapping
from inspect import cleandoc
from itertools import pairwise
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from jaxml import config as configs
from jaxml.config import checks
from jaxml.config.presets import CATALOGUE, PRESETS

Arguments = TypeVar("Arguments")
REGISTRY = ConstructorRegistry()
"""How tyro shows options."""
TRUTHS = ("true", "false", "yes", "no", "0", "1")
"""What somebody may write after an option that is on or off and takes no value."""


@REGISTRY.struct_rule
def _with_limits(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Describes options with their limits, which tyro does not show by itself."""
    if not hasattr(info.type, "__pydantic_config__"):
        return None
    schemas, types = checks.schemas(info.type), get_type_hints(info.type, include_extras=True)
    fields = []
    for field in dataclasses.fields(info.type):
        schema = schemas[field.name]
        pairs = tyro.conf.arg(metavar="[KEY VALUE ...]") if "prefixItems" in schema.get("items", {}) else None
        kind: Any = Annotated[types[field.name], pairs]
        default = getattr(info.default, field.name, field.default)
        default = tyro.MISSING if default is dataclasses.MISSING else default
        fields.append(StructFieldSpec(field.name, kind, default, checks.described(schema)))
    return StructConstructorSpec(info.type, tuple(fields))


def parse(
    kind: type[Arguments], words: list[str], description: str, default: Arguments | None = None
) -> Arguments:
    """Command line -> arguments of a verb, an instance of the dataclass `kind`; what is not given is the default.

    Raises:
        ValueError: an option has a value that it cannot have; names it.
    """
    _check_flags(kind, words)
    given: dict[str, Any] = {} if default is None else {"default": default}
    arguments = tyro.cli(
        kind, args=words, description=description, use_underscores=True, registry=REGISTRY, **given
    )
    return checks.checked(kind, arguments)


def _check_flags(kind: type[Any], words: list[str]) -> None:
    """ValueError if an option that is on or off is given a value, which tyro would call an unknown option."""
    flags = set(_flags(kind))
    for word, following in pairwise([*words, ""]):
        name, equals, value = word.replace("-", "_").partition("=")
        value = value if equals else following
        if (path := name.removeprefix("__")) in flags and value.lower() in TRUTHS:
            section, dot, option = path.rpartition(".")
            other = f"--{section}{dot}no_{option}"
            raise ValueError(f"--{path} takes no value; write it alone, or {other}, in place of {value}")


def _flags(kind: type[Any], prefix: str = "") -> list[str]:
    """Names of the options that are on or off, such as `eval.mirror`."""
    found = []
    for name, inner in get_type_hints(kind).items():
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            # Its sections stand at the top of the command line.
            found += _flags(inner, prefix if inner is configs.Config else f"{prefix}{name}.")
        elif inner is bool:
            found.append(f"{prefix}{name}")
    return found


def preset_name(words: list[str]) -> str:
    """The preset that a command line names, on which the defaults of all other options depend."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="glyphs_simple")
    name = first.parse_known_args(words)[0].preset
    if not name.endswith(configs.SUFFIXES) and name not in PRESETS:
        first.error(f"--preset {name}: give a JSON or YAML file, or one of {', '.join(PRESETS)}")
    return name


def preset(name: str) -> configs.Config:
    """The named configuration, or the one in a file."""
    return configs.load(name) if name.endswith(configs.SUFFIXES) else PRESETS[name]


def presets() -> str:
    """What the presets are and what to expect of them, for `--help`."""
    entries = [f"{name}: {cleandoc(entry.about)}".splitlines() for name, entry in CATALOGUE.items()]
    lines = [f"    {line}" for first, *rest in entries for line in (first, *(f"    {line}" for line in rest))]
    return "\n".join(["Presets:\n", *lines])


def train_options(name: str, values: Mapping[str, Any]) -> str:
    """The options of `jaxml train` that start from a preset and give these values, as a user can paste them in a shell.

    Example:
        >>> train_options("cub_squeezenet", {"train.steps": 150, "loss.name": "triplet", "loss.options.margin": 0.2})
        '--preset cub_squeezenet --train.steps 150 --loss.name triplet --loss.options margin 0.2'
    """
    config = configs.override(preset(name), values)
    words = ["--preset", name]
    # The command line takes all hyper-parameters of a loss at once.
    for section, option in dict.fromkeys(tuple(name.split(".")[:2]) for name in values):
        value = getattr(getattr(config, section), option)
        if isinstance(value, bool):
            words.append(f"--{section}.{option}" if value else f"--{section}.no_{option}")
        else:
            words += [f"--{section}.{option}", *map(str, _flat(value))]
    return shlex.join(words)


def _flat(value: Any) -> list[Any]:
    """A value, or all values in nested tuples."""
    return [inner for entry in value for inner in _flat(entry)] if isinstance(value, tuple) else [value]


def also(name: str) -> Any:
    """For `Annotated`: a verb's option under the name that it has in `jaxml train` too, as errors of a run call it."""
    return tyro.conf.arg(aliases=(name,))
