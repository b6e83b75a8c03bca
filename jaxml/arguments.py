"""Checks of arguments on the host: one ValueError that names the argument and says what it may be."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxml.names import shown


def array(name: str, value: Any, form: str) -> np.ndarray:
    """`value` as an array of numbers; ragged lists, text and None are refused as not being `form`."""
    try:
        found = np.asarray(value)
    except (ValueError, TypeError):
        found = np.asarray(None)
    if found.dtype.kind not in "biufV" or found.dtype.names:  # V: bfloat16, which NumPy does not know
        raise ValueError(f"{name} must be {form}, got {shown(value)}")
    return found


def matrix(name: str, value: Any) -> np.ndarray:
    """Finite numbers [N, D], N > 0 and D > 0."""
    form = "a non-empty array of numbers [N, D]"
    found = array(name, value, form)
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"{name} must be {form}, got shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} hold NaN or infinity: the run diverged; lower optim.learning_rate")
    return found


def labels(name: str, value: Any, count: int | None = None) -> np.ndarray:
    """Integers [N], `count` of them if given, else N > 0."""
    form = f"{'a non-empty' if count is None else 'an'} integer array [{'N' if count is None else count}]"
    found = array(name, value, form)
    if found.ndim != 1 or (len(found) == 0 if count is None else len(found) != count):
        raise ValueError(f"{name} must be {form}, got shape {found.shape}")
    if found.dtype.kind not in "biu":
        raise ValueError(f"{name} must be {form}, got {found.dtype}")
    return found


def whole(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """A whole number within limits."""
    number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not number or value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise ValueError(f"{name} must be a whole number of at least {minimum}{upper}, got {shown(value)}")
    return int(value)


def numbers(name: str, value: Any, count: int) -> np.ndarray:
    """A row of `count` finite numbers."""
    form = f"{count} finite numbers"
    found = array(name, value, form)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise ValueError(f"{name} must be {form}, got {shown(value)}")
    return found
