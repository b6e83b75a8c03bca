"""Checks of arguments on the host: each raises one ValueError that names the argument and says what it may be."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np


def array(name: str, value: Any, form: str) -> np.ndarray:
    """Convert a value to an array of numbers, of any shape.

    Args:
        name: The argument, as the caller knows it.
        value: Anything that NumPy can make numbers of, bfloat16 included.
        form: What the argument may be, for the message.

    Raises:
        ValueError: the value is a ragged list, text, None or another object.
    """
    try:
        values = np.asarray(value)
    except (ValueError, TypeError):
        values = np.asarray(None)
    if values.dtype.kind not in "biufV" or values.dtype.names:  # NumPy calls bfloat16 V
        raise ValueError(f"{name} must be {form}, got {shown(value)}")
    return values


def matrix(name: str, value: Any) -> np.ndarray:
    """Convert a value to a matrix of finite numbers [N, D].

    Raises:
        ValueError: another shape, N = 0, D = 0, or an entry is NaN or infinite.
    """
    form = "a non-empty array of numbers [N, D]"
    values = array(name, value, form)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must be {form}, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} must be finite, got NaN or infinity: a network that makes them has diverged; lower "
            f"--optim.learning_rate"
        )
    return values


def labels(name: str, value: Any, count: int | None = None) -> np.ndarray:
    """Convert a value to a vector of integers: [count], or [N] with N > 0 where no count is given.

    Raises:
        ValueError: another shape, or numbers that are not integers.
    """
    form = f"{'a non-empty' if count is None else 'an'} integer array [{'N' if count is None else count}]"
    values = array(name, value, form)
    if values.ndim != 1 or (len(values) == 0 if count is None else len(values) != count):
        raise ValueError(f"{name} must be {form}, got shape {values.shape}")
    if values.dtype.kind not in "biu":
        raise ValueError(f"{name} must be {form}, got {values.dtype}")
    return values


def places(name: str, value: Any, count: int) -> np.ndarray:
    """Convert a value to a vector of places in an array of `count` rows, int [n].

    Raises:
        ValueError: another shape, or numbers that are no places: not integers, or not from 0 to count - 1.
    """
    form = f"an integer array [n] of places from 0 to {count - 1}"
    values = array(name, value, form)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be {form}, got {values.dtype} of shape {values.shape}")
    if values.size and not (values.min() >= 0 and values.max() < count):
        raise ValueError(f"{name} must be {form}, got {shown(value)}")
    return values.astype(int)


def whole(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """Check that a value is a whole number from `minimum` to `maximum`, both included.

    Raises:
        ValueError: it is of another type, or beyond a limit.
    """
    number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not number or value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise ValueError(f"{name} must be a whole number of at least {minimum}{upper}, got {shown(value)}")
    return int(value)


def counts(name: str, value: Any) -> tuple[int, ...]:
    """Check that a value is a sequence of whole numbers of at least 1, and not an empty one.

    Raises:
        ValueError: it is something else, or one of its entries is.
    """
    if not isinstance(value, Sequence | np.ndarray) or len(value) == 0:
        raise ValueError(f"{name} must be whole numbers of at least 1, got {shown(value)}")
    return tuple(whole(name, entry) for entry in value)


def numbers(name: str, value: Any, count: int) -> np.ndarray:
    """Convert a value to a vector of finite numbers [count].

    Raises:
        ValueError: another shape, or an entry is NaN or infinite.
    """
    form = f"{count} finite numbers"
    values = array(name, value, form)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise ValueError(f"{name} must be {form}, got {shown(value)}")
    return values


def shown(value: Any) -> str:
    """Show any value, however long and deep, on one short line for a message."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    try:
        return " ".join(short.repr(value).split())
    except ValueError:  # Python refuses to write whole numbers of more than 4,300 digits.
        return object.__repr__(value)
