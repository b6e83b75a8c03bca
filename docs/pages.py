"""Writes what pages of the site include from the code: the options of a run, the presets, the tutorials."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = "generated"
LOWER, UPPER = {"ge": "at least", "gt": "above"}, {"le": "at most", "lt": "under"}


def write(root: Path, docs: Path) -> None:
    """Write all generated texts into docs/generated."""
    out = docs / FOLDER
    out.mkdir(exist_ok=True)
    texts = {"options": options(), "presets": presets()}
    for script in sorted((docs / "tutorials").glob("*.py")):
        texts[script.stem] = tutorial(script.read_text(encoding="utf-8"))
    for name, text in texts.items():
        path = out / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# Options ------------------------------------------------------------------------------------------------


def options() -> str:
    """Every option of a run, one table for each section of the configuration."""
    from jaxml.config import Config

    text = ""
    for section, field in fields(Config):
        part = _plain(field.annotation)
        text += (
            f"\n## {section}\n\n{inspect.getdoc(part)}\n\n| option | type | default | |\n|---|---|---|---|\n"
        )
        for name, option in fields(part):
            kind = f"{_type(option.annotation)}{_limits(option.annotation)}"
            cells = [f"`--{section}.{name}`", kind, _default(option.default), option.text]
            text += f"| {' | '.join(_cell(cell) for cell in cells)} |\n"
    return text


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a configuration class."""

    annotation: Any
    default: Any
    text: str


def fields(cls: type) -> Iterator[tuple[str, Field]]:
    """Names and fields of a configuration class, in the order of its source."""
    hints, texts, default = typing.get_type_hints(cls, include_extras=True), _texts(cls), cls()
    for name in hints:
        described = [
            text for note in getattr(hints[name], "__metadata__", ()) if (text := _description(note))
        ]
        yield name, Field(hints[name], getattr(default, name), texts.get(name) or " ".join(described))


def _description(note: Any) -> str:
    """What an annotation such as msgspec.Meta says of its field."""
    return getattr(note, "description", None) or getattr(note, "help", None) or ""


def _texts(cls: type) -> dict[str, str]:
    """The string below each field in the source of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            found[field.target.id] = " ".join(below.value.value.split())  # type: ignore[union-attr,attr-defined]
    return found


def _plain(annotation: Any) -> Any:
    """An annotation without its notes."""
    return annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation


def _type(annotation: Any) -> str:
    """A type in words, such as "float float", or the choices."""
    annotation = _plain(annotation)
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if typing.get_origin(annotation) is tuple:
        parts = " ".join(_type(part) for part in arguments if part is not Ellipsis)
        return f"{parts}, repeated" if Ellipsis in arguments else parts
    return " or ".join(_type(part) for part in arguments) if arguments else annotation.__name__


def _limits(annotation: Any) -> str:
    """The bounds in an annotation's notes, such as annotated_types.Ge; those of the machine's numbers are left out."""
    notes = getattr(annotation, "__metadata__", ())
    low = [
        (getattr(note, sign), word) for note in notes for sign, word in LOWER.items() if hasattr(note, sign)
    ]
    high = [
        (getattr(note, sign), word) for note in notes for sign, word in UPPER.items() if hasattr(note, sign)
    ]
    bounds = [*([max(low)] if low else []), *([min(high)] if high else [])]
    return "".join(f", {word} {bound}" for bound, word in bounds if abs(bound) < 2**31 - 1)


def _default(value: Any) -> str:
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{shown}`" if shown else "none"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


# Presets ------------------------------------------------------------------------------------------------


def presets() -> str:
    """What each preset is for, and what it changes of the defaults or of another preset."""
    from jaxml.config.presets import CATALOGUE

    text = ""
    for name, preset in CATALOGUE.items():
        changed = f"`{preset.base}`" if preset.base else "the defaults"
        values = "\n".join(f"{option}: {value!r}" for option, value in preset.changes.items())
        text += f"\n## {name}\n\n```\n{inspect.cleandoc(preset.about)}\n```\n\n"
        text += f"It changes of {changed}:\n\n```\n{values}\n```\n"
    return text


# Tutorials ----------------------------------------------------------------------------------------------


def tutorial(script: str) -> str:
    """A script in percent format as Markdown: `# %% [markdown]` begins text, `# %%` begins code."""
    text = ""
    for cell in script.split("# %%")[1:]:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            text += "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines())
        else:
            text += f"```python\n{body.strip()}\n```"
        text += "\n\n"
    return text
