"""Writes the measurements in experiments/results/measurements/ into BUILD_NOTES.md, each between two markers.

    python -m experiments.benchmarks.losses --out benchmarks
    cp benchmarks/losses.json experiments/results/measurements/
    python -m experiments.benchmarks.notes

Each is a JSON file as `timing.write` makes it: `about` says what was measured, by which command, at which commit and on
which device; `columns` and `rows` are the table. A test fails where the notes and these files differ.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTES = ROOT / "BUILD_NOTES.md"
FOLDER = ROOT / "experiments" / "results" / "measurements"
MARKED = re.compile(r"<!-- (\S+\.json) -->\n.*?<!-- end -->\n", re.DOTALL)


def inserted(notes: str) -> str:
    """The notes with the text between each pair of markers written anew from the file that the first one names."""
    return MARKED.sub(lambda found: f"<!-- {found[1]} -->\n{_text(found[1])}<!-- end -->\n", notes)


def _text(name: str) -> str:
    measured = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    about = textwrap.fill(measured["about"], 128, break_long_words=False, break_on_hyphens=False)
    table = markdown(measured["columns"], measured["rows"])
    return f"{about}\n\n{table}" if about else table


def markdown(columns: list[Any], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    return "\n".join([_line(columns), "|" + "---|" * len(columns), *map(_line, rows)]) + "\n"


def _line(cells: list[Any]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in map(str, cells)) + "|"


if __name__ == "__main__":
    NOTES.write_text(inserted(NOTES.read_text(encoding="utf-8")), encoding="utf-8")
