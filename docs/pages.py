"""Writes what pages of the site include from the code: the options of a run, the presets, the tutorials."""

from __future__ import annotations

import inspect
from pathlib import Path

FOLDER = "generated"


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
    from jaxml.config import SECTIONS, checks

    text = ""
    for section, kind in SECTIONS.items():
        text += (
            f"\n## {section}\n\n{inspect.getdoc(kind)}\n\n| option | value | default | |\n|---|---|---|---|\n"
        )
        for name, schema in checks.schemas(kind).items():
            description = " ".join(schema["description"].split())
            choices = ", ".join(f"`{choice}`" for choice in schema.get("enum", ()))
            value = choices or checks.allowed(schema)
            cells = [f"`--{section}.{name}`", value, _default(schema["default"]), description]
            text += f"| {' | '.join(map(_cell, cells))} |\n"
    return text


def _default(value: object) -> str:
    shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
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
