"""Which pairs and triplets of a batch count: names and functions of `jaxml.losses.kernels.mining`."""

from jaxml.losses.kernels.mining import (
    MINING,
    Anchors,
    Candidates,
    Masks,
    at,
    column_of_positive,
    facts,
    farthest,
    last_place,
    local,
    log_weights,
    masks,
    nearest,
    number,
    row_count,
    row_counts,
)

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
