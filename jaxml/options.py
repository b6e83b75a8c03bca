"""Values of options: whether they are of the declared type, and within limits."""

from __future__ import annotations

import math
import re
from types import UnionType
from typing import Any, Literal, get_args, get_origin

NAMES = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}


def check_type(name: str, value: Any, declared: Any) -> None:
    """ValueError unless the value is of the type that a configuration declares for it."""
    if not _fits(value, declared):
        raise ValueError(f"{name} is {value!r}; {_allowed(declared)}")


def check_groups(groups: tuple[tuple[str, float], ...]) -> None:
    """ValueError unless these are regular expressions with factors of at least 0."""
    for regex, factor in groups:
        try:
            re.compile(regex)
        except re.error as error:
            raise ValueError(f"optim.groups: {regex!r} is no regular expression: {error}") from None
        if factor < 0:
            raise ValueError(f"optim.groups: the factor of {regex!r} is {factor}; it must be at least 0")


def _fits(value: Any, declared: Any) -> bool:
    if get_origin(declared) is Literal:
        return isinstance(value, str) and value in get_args(declared)
    if get_origin(declared) is UnionType:
        return any(_fits(value, kind) for kind in get_args(declared))
    if get_origin(declared) is tuple:
        kinds = get_args(declared)
        if not isinstance(value, tuple):
            return False
        if kinds[-1] is Ellipsis:
            return all(_fits(x, kinds[0]) for x in value)
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if declared is bool:
        return isinstance(value, bool)
    if declared is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, declared) and not isinstance(value, bool)


def _allowed(declared: Any) -> str:
    if get_origin(declared) is Literal:
        return f"allowed: {', '.join(get_args(declared))}"
    return f"it must be {_described(declared)}"


def _described(declared: Any) -> str:
    if get_origin(declared) is UnionType:
        return " or ".join(map(_described, get_args(declared)))
    if get_origin(declared) is tuple:
        kinds = get_args(declared)
        if kinds[-1] is Ellipsis:
            return f"a row of entries, each {_described(kinds[0])}"
        return f"({', '.join(map(_described, kinds))})"
    return NAMES[declared]
