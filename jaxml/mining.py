"""Which pairs and triplets of a batch count: the ways of mining, and the functions that they are made of."""

from jaxml.losses.kernels.mining import MINING
from jaxml.losses.kernels.negatives import log_weights
from jaxml.losses.kernels.positives import local
from jaxml.losses.kernels.reductions import at, farthest, last_place, nearest, number, row_count, row_counts
from jaxml.losses.kernels.relations import Anchors, Candidates, Masks, column_of_positive, facts, masks

__all__ = [
    "MINING",
    "Anchors",
    "Candidates",
    "Masks",
    "at",
    "column_of_positive",
    "facts",
    "farthest",
    "last_place",
    "local",
    "log_weights",
    "masks",
    "nearest",
    "number",
    "row_count",
    "row_counts",
]
