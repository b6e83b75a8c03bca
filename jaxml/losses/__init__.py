"""Losses: pure functions (embeddings, labels, *, ...) -> (loss, aux)."""

from collections.abc import Callable
from typing import Any

from jaxml.losses.formulas import triplet_distances
from jaxml.losses.pairs import contrastive, multi_similarity
from jaxml.losses.triplet import triplet

LOSSES: dict[str, Callable[..., Any]] = {
    "contrastive": contrastive,
    "multi_similarity": multi_similarity,
    "triplet": triplet,
}
PARAMETERS: dict[str, Callable[..., Any]] = {}

__all__ = ["LOSSES", "PARAMETERS", "contrastive", "multi_similarity", "triplet", "triplet_distances"]
