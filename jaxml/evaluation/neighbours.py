"""Exact nearest neighbours: the nearest images of every image, block by block, computed on the host with NumPy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxml import arguments

BLOCK_BYTES = 64 * 2**20
"""Memory of the distances of one block of queries to all images."""


def neighbours(
    embeddings: np.ndarray, k: int, queries: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The k nearest other images of each query, block by block.

    Distances are Euclidean, computed from differences in float64, and equal ones go by index. No square overflows,
    however large the embeddings are.

    Args:
        embeddings: float [N, D].
        k: number of neighbours, cut to N - 1.
        queries: int [Q], places in embeddings; all of them by default.

    Yields:
        Queries int [b], and their neighbours int [b, k], the nearest first.

    Raises:
        ValueError: embeddings are no matrix or not finite, or k is no whole number of at least 1.

    Example:
        >>> for queries, near in neighbours(np.array([[0.0], [1.0], [5.0]]), k=1):
        ...     print(queries.tolist(), near.tolist())
        [0, 1, 2] [[1], [0], [1]]
    """
    x = arguments.matrix("embeddings", embeddings).astype(np.float64)
    k = min(arguments.whole("k", k), len(x) - 1)
    # Division by a power of two rounds nothing; afterwards no entry is above 1.
    x = np.ldexp(x, -np.frexp(np.abs(x).max())[1])
    points = _points(x)
    centred = x - x.mean(0, keepdims=True)
    squares = (centred * centred).sum(1)
    # |q|^2 - 2 q . x + |x|^2 as computed is within this share of |q|^2 + |x|^2 of the squared distance.
    rounding = (x.shape[1] + 8) * np.finfo(np.float64).eps
    block = max(1, BLOCK_BYTES // (8 * len(x)))
    queries = np.arange(len(x)) if queries is None else np.asarray(queries)
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        # Lower bounds of the squared distances [b, N], less what is the same along a row.
        bounds = (1 - rounding) * squares[None, :] - 2 * centred[rows] @ centred.T
        bounds[np.arange(len(rows)), rows] = np.inf
        near = np.argpartition(bounds, k - 1, axis=1)[:, :k]
        low, high = _interval(bounds, near, rows, squares, rounding)
        # The k nearest lie within the greatest upper bound, so every image that may lie within it is kept.
        m = int((bounds <= high.max(axis=1, keepdims=True, initial=-np.inf)).sum(axis=1).max())
        if m > k:
            near = np.argpartition(bounds, m - 1, axis=1)[:, :m]
            low, high = _interval(bounds, near, rows, squares, rounding)
        yield rows, _in_order(x, points, rows, near, low, high)[:, :k]


def _points(x: np.ndarray) -> np.ndarray:
    """Numbers int [N] of embeddings float64 [N, D], the same number for equal embeddings."""
    rows = np.ascontiguousarray(x + 0.0)  # turns -0.0 into 0.0, which it equals
    return np.unique(rows.view(f"V{x.itemsize * x.shape[1]}").ravel(), return_inverse=True)[1]


def _interval(
    bounds: np.ndarray, near: np.ndarray, rows: np.ndarray, squares: np.ndarray, rounding: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds [b, m] of the squared distances of queries [b] to images [b, m].

    `bounds` are the lower bounds [b, N] to all images, and `squares` the squared lengths [N].
    """
    low = np.take_along_axis(bounds, near, axis=1)
    return low, low + 2 * rounding * (squares[rows][:, None] + squares[near])


def _in_order(
    x: np.ndarray, points: np.ndarray, rows: np.ndarray, near: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Neighbours int [b, m] of queries `rows` [b], sorted by distance, then by index.

    Distances are computed only where the bounds `low` and `high` [b, m] leave the order open.
    """
    order = np.argsort(low, axis=1)
    near, low, high = (np.take_along_axis(a, order, axis=1) for a in (near, low, high))
    # Neighbours whose bounds overlap form a run; the order of the runs is certain.
    begins = np.ones((len(rows), near.shape[1] + 1), bool)
    begins[:, 1:-1] = low[:, 1:] > np.maximum.accumulate(high, axis=1)[:, :-1]
    i, j = np.nonzero(~(begins[:, :-1] & begins[:, 1:]))
    distances = np.zeros(near.shape)
    distances[i, j] = _squared_distances(x, points, rows[i], near[i, j])
    run = begins[:, :-1].cumsum(axis=1)
    return np.take_along_axis(near, np.lexsort((near, distances, run)), axis=1)


def _squared_distances(x: np.ndarray, points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances float64 [n] of images a [n] to b [n]; those of equal embeddings are computed once."""
    _, first, pair = np.unique(points[a] * len(x) + points[b], return_index=True, return_inverse=True)
    a, b = a[first], b[first]
    found, step = np.empty(len(a)), max(1, BLOCK_BYTES // (8 * x.shape[1]))
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        found[part] = np.square(x[a[part]] - x[b[part]]).sum(axis=1)
    return found[pair]
