"""Reads, writes and compares the committed accounts, one line for each program."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from jaxml.planning.account import account
from jaxml.planning.hlo import parse

PATH = Path(__file__).with_name("accounts.csv")
KEY = ("target", "program")
NUMBERS = (
    "hbm_bytes",
    "operations",
    "temp_bytes",
    "gathers_in_loops",
    "scatters_in_loops",
    "collectives",
    "collective_bytes",
)
ALLOWED = 1.1
"""A number may be at most so many times the committed one."""

Row = dict[str, int]


def row(compiled: Any, devices: int) -> Row:
    """The account of a compiled program."""
    found = account(parse(compiled.as_text()), devices)
    values = (
        sum(found.hbm_bytes.values()),
        sum(found.precisions.values()),
        compiled.memory_analysis().temp_size_in_bytes,
        found.gathers_in_loops,
        found.scatters_in_loops,
        sum(c.number for c in found.collectives.values()),
        sum(c.result_bytes for c in found.collectives.values()),
    )
    return {name: round(value) for name, value in zip(NUMBERS, values, strict=True)}


def read(path: Path = PATH) -> dict[tuple[str, str], Row]:
    """The table; empty where there is none."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {(r["target"], r["program"]): {n: int(r[n]) for n in NUMBERS} for r in csv.DictReader(file)}


def write(rows: dict[tuple[str, str], Row], path: Path = PATH) -> None:
    """Write the table, sorted."""
    with path.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow((*KEY, *NUMBERS))
        out.writerows((*key, *(rows[key][n] for n in NUMBERS)) for key in sorted(rows))


def regressions(key: tuple[str, str], found: Row, known: Row) -> list[str]:
    """A line for each number that is too much larger than it was."""
    lines = []
    for name in NUMBERS:
        if found[name] > ALLOWED * known[name]:
            more = f", {100 * (found[name] / known[name] - 1):.0f} % more" if known[name] else ""
            lines.append(f"{key[1]} on {key[0]}: {name} {found[name]:,}, was {known[name]:,}{more}")
    return lines
