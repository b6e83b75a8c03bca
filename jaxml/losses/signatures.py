"""Which keyword arguments a loss takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def keywords(function: Callable[..., Any]) -> list[str]:
    """Names of the keyword-only parameters of a loss, or of the one that transforms have made it of."""
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
