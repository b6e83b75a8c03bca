"""Losses: pure functions (embeddings, labels, *, ...) -> (loss, aux)."""

from collections.abc import Callable
from typing import Any

from jaxml.losses.pairs import multi_similarity
from jaxml.losses.triplet import triplet

LOSSES: dict[str, Callable[..., Any]] = {"multi_similarity": multi_similarity, "triplet": triplet}
PARAMETERS: dict[str, Callable[..., Any]] = {}

__all__ = ["LOSSES", "PARAMETERS", "multi_similarity", "triplet"]
