"""Values of options: whether they are of the declared type, and within limits."""

from __future__ import annotations

import re
import reprlib
from types import UnionType
from typing import Any, Literal, get_args, get_origin

INT32, FLOAT32 = 2**31 - 1, 3.4e38
"""The largest numbers that devices compute with."""

POSITIVE = (
    *("data.stored_size", "data.size", "data.classes_per_batch", "data.images_per_class"),
    *("model.feature_size", "optim.learning_rate"),
    *("train.steps", "train.log_every", "train.eval_every", "train.save_every", "train.steps_per_call"),
    *("triplets.regenerate_every", "eval.batch_size", "eval.clusters_per_class", "eval.kmeans_seeds"),
)

NOT_NEGATIVE = (
    *("data.jitter", "model.dropout", "loss.norm_weight", "optim.warmup_steps", "optim.weight_decay"),
    *("train.seed", "train.chunk", "train.devices", "train.profile", "triplets.hard_share", "eval.size"),
)

AT_MOST = {
    **dict.fromkeys(("data.stored_size", "data.size", "eval.size"), 2**14),
    **dict.fromkeys(("data.classes_per_batch", "data.images_per_class"), 2**20),
    "eval.kmeans_seeds": 1000,
    "train.seed": 2**32 - 1,
}
"""Largest value of whole numbers, where it is not that of an int32."""

NAMES = {int: "a whole number", float: "a finite number (float32)", str: "text", bool: "true or false"}


def check_type(name: str, value: Any, declared: Any) -> None:
    """ValueError unless the value is of the type that a configuration declares for it."""
    if not _fits(value, declared):
        raise ValueError(f"{name} is {shown(value)}; {_allowed(declared)}")


def check_range(name: str, value: Any) -> None:
    """ValueError unless the value, or each one in a row of entries, is one that the option can have."""
    if isinstance(value, tuple):
        for entry in value:
            check_range(name, entry)
        return
    if name in POSITIVE and value <= 0:
        raise ValueError(f"{name} is {value}; it must be positive")
    if name in NOT_NEGATIVE and value < 0:
        raise ValueError(f"{name} is {value}; it must be at least 0")
    if isinstance(value, int) and abs(value) > (most := AT_MOST.get(name, INT32)):
        raise ValueError(f"{name} is {value}; it must be at most {most}")


def shown(value: Any) -> str:
    """A value on one line of bounded length, however long and deep it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 200
    return short.repr(value)


def check_groups(groups: tuple[tuple[str, float], ...]) -> None:
    """ValueError unless these are regular expressions with factors of at least 0."""
    for regex, factor in groups:
        try:
            re.compile(regex)
        except (re.error, OverflowError, RecursionError) as error:
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
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FLOAT32
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
