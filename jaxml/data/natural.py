"""The natural order of names, in which class 2 comes before class 10."""

from __future__ import annotations

import re


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which class 2 comes before class 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
