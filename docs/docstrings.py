"""Turns the docstrings of jaxml, plain text with Google's sections, into reStructuredText.

Indented lines outside of sections are formulas and lists, shown as they are. Elsewhere the signs that mean markup to
Sphinx are escaped, but for text in backticks.
"""

from __future__ import annotations

import re
from typing import Any

SECTION = re.compile(r"(Args|Returns|Yields|Raises|Example|Examples):$")
CODE = re.compile(r"(`[^`]*`)")
MARKUP = re.compile(r"([*|\\])|(?<=\w)(_)(?!\w)")


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of a docstring, as Sphinx asks of a handler of autodoc-process-docstring."""
    lines[:] = converted(lines)
    if what == "attribute" and lines:
        # napoleon takes what stands before a colon in the first line for a type, and looks for pages of its words.
        lines[0] = lines[0].replace(": ", " \N{EN DASH} ", 1)


def converted(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText."""
    found: list[str] = []
    in_section = literal = False
    for line in lines:
        indented = line.startswith(" ")
        if SECTION.fullmatch(line):
            in_section, literal = True, False
        elif line.strip() and not indented:
            in_section = literal = False
        if indented and not in_section:
            if not literal:
                found += ["", "::", ""]
                literal = True
            found.append(line)
        elif literal and not line.strip():
            found.append("")
        else:
            if found and found[-1].startswith(" ") and line.strip() and not indented:
                found.append("")  # a literal block ends
            found.append(line if _is_code(line) else escaped(line))
    return found


def escaped(line: str) -> str:
    """A line of text whose stars, bars and trailing underscores are no markup."""
    parts = CODE.split(line)
    return "".join(part if part.startswith("`") else MARKUP.sub(r"\\\g<0>", part) for part in parts)


def _is_code(line: str) -> bool:
    return line.lstrip().startswith((">>>", "..."))
