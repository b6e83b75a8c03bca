"""What the scripts in experiments/ share: the command line, and errors on one line."""

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from jaxml import config as configs
from jaxml.config import checks
from jaxml.config.presets import CATALOGUE, PRESETS
from jaxml.errors import CheckpointError, Preempted, RunError
from jaxml.training.preemption import PREEMPTED, interruptible

Arguments = TypeVar("Arguments")
REGISTRY = ConstructorRegistry()
"""How tyro shows options."""


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


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Which run, and every option of its configuration."""

    preset: str = "glyphs_simple"
    """Configuration to start from: one of the presets above, or a JSON file such as a run's config.json."""
    workdir: str = ""
    """Directory of the run; runs/ and the preset's name by default."""
    resume: bool = False
    """Continue the run in workdir, with its configuration."""
    other_data: bool = False
    """Continue it although its pictures are not those that it has seen."""
    distributed: bool = False
    """Join the other processes of this run, one to a host; each is started with the same command."""
    config: Annotated[configs.Config, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=configs.Config
    )


def parse(
    kind: type[Arguments], words: list[str], description: str, default: Arguments | None = None
) -> Arguments:
    """Command line -> arguments of a script, an instance of the dataclass `kind`; what is not given is the default.

    Raises:
        ValueError: an option has a value that it cannot have; names it.
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    arguments = tyro.cli(
        kind, args=words, description=description, use_underscores=True, registry=REGISTRY, **given
    )
    return checks.checked(kind, arguments)


def parse_train(words: list[str], description: str) -> TrainArguments:
    """Command line -> arguments; the preset, or the run to resume, gives the defaults of all other options."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--workdir", default="")
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(words)
    name = preset_name(words)
    workdir = known.workdir or f"runs/{Path(name).stem}"
    saved = Path(workdir) / "config.json"
    base = configs.load(saved) if known.resume and saved.exists() else preset(name)
    default = TrainArguments(name, workdir, known.resume, config=base)
    arguments = parse(TrainArguments, words, f"{description}\n{presets()}", default)
    # An empty --workdir would be the current folder, which is somebody's already.
    return dataclasses.replace(arguments, workdir=workdir)


def preset_name(words: list[str]) -> str:
    """The preset that a command line names, on which the defaults of all other options depend."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="glyphs_simple")
    name = first.parse_known_args(words)[0].preset
    if not name.endswith(".json") and name not in PRESETS:
        first.error(f"--preset {name}: give a JSON file, or one of {', '.join(PRESETS)}")
    return name


def preset(name: str) -> configs.Config:
    """The named configuration, or the one in a JSON file."""
    return configs.load(name) if name.endswith(".json") else PRESETS[name]


def presets() -> str:
    """What the presets are and what to expect of them, for `--help`."""
    entries = [f"{name}: {cleandoc(entry.about)}".splitlines() for name, entry in CATALOGUE.items()]
    lines = [f"    {line}" for first, *rest in entries for line in (first, *(f"    {line}" for line in rest))]
    return "\n".join(["Presets:\n", *lines])


def train_options(name: str, values: Mapping[str, Any]) -> str:
    """The options of train.py that start from a preset and give these values, as a user can paste them in a shell.

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
    """For `Annotated`: a script's option under the name that it has in train.py too, as errors of a run call it."""
    return tyro.conf.arg(aliases=(name,))


def _leave(message: str) -> None:
    """End after a signal to stop."""
    import jax

    print(message, file=sys.stderr, flush=True)
    if jax.process_count() == 1:
        # The time is short, and an ordinary exit waits for the threads of libraries.
        sys.stdout.flush()
        os._exit(PREEMPTED)
    sys.exit(PREEMPTED)


def command(main: Callable[[list[str]], Any]) -> None:
    """Run a script's `main`; a mistake that a user can mend ends in one line on stderr and exit code 1."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with interruptible():
            main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    except (OSError, RuntimeError, ImportError) as error:
        if isinstance(error, Preempted):
            _leave(str(error))
        if isinstance(error, RunError | CheckpointError | OSError | ImportError):
            sys.exit(f"error: {error}")
        raise
