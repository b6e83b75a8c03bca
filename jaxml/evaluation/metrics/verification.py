"""Errors of verification: whether two images are of one class, judged by their distance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from jaxml import arguments
from jaxml.evaluation.protocol import Protocol

RATES = (0.001, 0.01, 0.1)
"""False match rates at which the false non-match rate is taken."""
BLOCK_BYTES = 64 * 2**20
"""Memory of the distances of one block of queries."""


def fnmr_at_fmr(
    embeddings: np.ndarray,
    labels: np.ndarray,
    rates: Sequence[float] = RATES,
    *,
    queries: np.ndarray | None = None,
    gallery: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> dict[str, float]:
    """False non-match rates where the false match rate has the given values.

        t(r) = the r-quantile of the distances of pairs of different classes
        FNMR@r = the share of pairs of one class whose distance is at least t(r)

    Pairs are those of a query and an image of the gallery that is not of its group. Quantiles lie on the line between
    the two distances next to them. Distances are computed in float64, and of all pairs of different classes only the
    nearest share, up to the greatest rate, is kept in memory.

    Args:
        embeddings: float [N, D].
        labels: int [N].
        rates: false match rates, each above 0 and below 1.
        queries: int [Q], places of the queries, as in `retrieval`.
        gallery: int [M], places of the images that they are compared with, as there.
        groups: int [N], as there; no query is compared with an image of its own group.

    Returns:
        The rates by name, such as `fnmr@0.01`; NaN where there are no pairs of one class, or none of different ones.

    Raises:
        ValueError: embeddings or labels have another shape, embeddings are not finite, or rates are no such numbers.

    Source: ISO/IEC 19795-1, false match and false non-match rate.

    Example:
        >>> x, labels = np.array([[0.0], [1.0], [5.0], [7.0]]), np.array([0, 0, 1, 1])
        >>> fnmr_at_fmr(x, labels, [0.5])
        {'fnmr@0.5': 0.0}
    """
    x = arguments.matrix("embeddings", embeddings).astype(np.float64)
    classes = np.unique(arguments.labels("labels", labels, len(x)), return_inverse=True)[1]
    limits = arguments.numbers("rates", rates, np.size(rates))
    if not len(limits) or not ((limits > 0) & (limits < 1)).all():
        raise ValueError(f"rates must be numbers above 0 and below 1, got {arguments.shown(rates)}")
    protocol = Protocol.of(len(x), queries, gallery, groups)
    asked, found, own = protocol.queries, protocol.gallery, protocol.groups
    different = int((protocol.found() - protocol.relevant(classes))[asked].sum())
    keep = min(different, int(limits.max() * max(different - 1, 0)) + 2)
    of_one_class, nearest = [], np.zeros(0)
    for rows, distances in _squared_distances(x, asked, found):
        pairs = own[rows][:, None] != own[found][None, :]
        same = classes[rows][:, None] == classes[found][None, :]
        of_one_class.append(distances[pairs & same])
        nearest = np.concatenate([nearest, distances[pairs & ~same]])
        if len(nearest) > keep:
            nearest = np.partition(nearest, keep - 1)[:keep]
    matches, others = np.sqrt(np.concatenate(of_one_class)), np.sqrt(np.sort(nearest))
    names = [f"fnmr@{rate:g}" for rate in limits]
    if not len(matches) or not len(others):
        return dict.fromkeys(names, float("nan"))
    thresholds = np.interp(limits * (different - 1), np.arange(len(others)), others)
    return {name: float((matches >= t).mean()) for name, t in zip(names, thresholds, strict=True)}


def _squared_distances(
    x: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of rows [b] with their squared distances [b, M] to the columns, from products in float64."""
    points = x[columns] - x.mean(0, keepdims=True)
    squares = np.square(points).sum(1)
    block = max(1, BLOCK_BYTES // (8 * len(columns)))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        asking = x[part] - x.mean(0, keepdims=True)
        distances = np.square(asking).sum(1)[:, None] - 2 * asking @ points.T + squares[None, :]
        yield part, np.maximum(distances, 0)
