"""Exact nearest neighbours, block by block, in memory that does not grow with the square of the embeddings.

A matrix product finds the images that may be among the nearest of a query, with bounds of their distances. Only where
the bounds leave the order open are distances computed from differences, in float64. Large searches take the product in
float32 on the devices there are (`jaxml.evaluation.products`); small ones, and queries that float32 leaves open, take
it in float64 on the host. The neighbours are the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from jaxml import arguments
from jaxml.evaluation import products
from jaxml.evaluation.protocol import Protocol

BLOCK_BYTES = 64 * 2**20
"""Memory of the distances of one block of queries to all images."""
LARGE = 2**26
"""Number of distances from which the devices take the products."""
SLACK = 16
"""Images that a search on devices finds beyond those asked for, so that rounding rarely leaves the order open."""
NONE = -1
"""In place of a neighbour where a query has no further one."""
Search = Callable[..., Iterator[tuple[np.ndarray, np.ndarray]]]
"""What is called as `neighbours` is, search(embeddings, k, queries, gallery, groups), and ranks images in its way."""


def neighbours(
    embeddings: np.ndarray,
    k: int,
    queries: np.ndarray | None = None,
    gallery: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The k nearest images of each query, block by block.

    Distances are Euclidean, computed from differences in float64, and equal ones go by index. No square overflows,
    however large the embeddings are. Among several processes each searches alone, on its own devices.

    Args:
        embeddings: float [N, D], those of queries and of the gallery.
        k: number of neighbours, cut to what the gallery has: N - 1 by default.
        queries: int [Q], places in embeddings; all of them by default.
        gallery: int [M], places in embeddings among which neighbours are searched; all of them by default.
        groups: int [N]; no query finds an image of its own group. By default each image is a group, so that none finds
            itself. With groups of person and camera it is the rule of re-identification.

    Yields:
        Queries int [b], and their neighbours int [b, k], the nearest first; NONE where there is no further one.

    Raises:
        ValueError: embeddings are no matrix or not finite, k is no whole number of at least 1, or places are not in
            embeddings.

    Example:
        >>> for queries, near in neighbours(np.array([[0.0], [1.0], [5.0]]), k=1):
        ...     print(queries.tolist(), near.tolist())
        [0, 1, 2] [[1], [0], [1]]
        >>> for queries, near in neighbours(np.array([[0.0], [1.0], [5.0]]), k=1, queries=[0], gallery=[0, 2]):
        ...     print(queries.tolist(), near.tolist())
        [0] [[2]]
    """
    x = arguments.matrix("embeddings", embeddings).astype(np.float64)
    k = arguments.whole("k", k)
    protocol = Protocol.of(len(x), queries, gallery, groups)
    search = _Search(x, protocol)
    rows, size = protocol.queries, len(protocol.gallery)
    k = min(k, size - 1 if gallery is None and groups is None else size)
    asked = k + SLACK + search.largest
    # The devices select among many; where most are asked for, sorting them is what takes the time.
    if k and len(rows) * size >= LARGE and 4 * asked <= size:
        yield from search.by_devices(rows, k, asked)
    else:
        yield from search.by_host(rows, k)


class _Search:
    """A search among embeddings float64 [N, D]; `largest` is how many images a query does not find, at most."""

    def __init__(self, x: np.ndarray, protocol: Protocol):
        # Division by a power of two rounds nothing; afterwards no entry is above 1.
        self.x = np.ldexp(x, -np.frexp(np.abs(x).max())[1])
        self.centred = self.x - self.x.mean(0, keepdims=True)
        self.squares = (self.centred * self.centred).sum(1)
        self.gallery, self.groups = protocol.gallery, protocol.groups
        in_gallery = self.groups[self.gallery]
        self.by_group = np.argsort(in_gallery, kind="stable")
        sizes = np.bincount(in_gallery, minlength=self.groups.max() + 1)
        self.ends = np.cumsum(sizes)
        self.starts = self.ends - sizes
        self.largest = int(sizes.max())

    def by_host(self, rows: np.ndarray, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The k nearest of queries at places `rows` [Q], with products in float64."""
        # |q|^2 - 2 q.x + |x|^2 as computed is within this share of |q|^2 + |x|^2 of the squared distance.
        rounding = (self.x.shape[1] + 8) * float(np.finfo(np.float64).eps)
        squares, points = self.squares[self.gallery], self.centred[self.gallery]
        block = max(1, BLOCK_BYTES // (8 * max(1, len(points))))
        for start in range(0, len(rows), block):
            part = rows[start : start + block]
            # Lower bounds of the squared distances [b, M], less what is the same along a row.
            bounds = (1 - rounding) * squares[None, :] - 2 * self.centred[part] @ points.T
            bounds[self._left_out(part)] = np.inf
            near = np.argpartition(bounds, k - 1, axis=1)[:, :k] if k else np.zeros((len(part), 0), int)
            low, high = self._interval(bounds, near, part, rounding)
            # The k nearest lie within the greatest upper bound, so every image that may lie within it is kept.
            limit = np.max(high, axis=1, keepdims=True, initial=-np.inf, where=np.isfinite(high))
            m = max(k, int((bounds <= limit).sum(axis=1).max()))
            if m > k:
                near = np.argpartition(bounds, m - 1, axis=1)[:, :m]
                low, high = self._interval(bounds, near, part, rounding)
            yield part, self._in_order(part, near, low, high, self._distances_once)[:, :k]

    def by_devices(self, rows: np.ndarray, k: int, asked: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same with products in float32 on devices, which find `asked` images for each query."""
        rounding = products.rounding(self.x.shape[1])
        centred = self.centred.astype(np.float32)
        small = 4 * self.x.shape[1] * float(np.finfo(np.float32).tiny)  # what float32 may take for zero
        greatest = self.squares[self.gallery].max()
        for place, values, near in products.least(centred[rows], centred[self.gallery], asked):
            part = rows[place]
            error = rounding * (self.squares[part][:, None] + self.squares[self.gallery[near]])
            error += small
            same = self.groups[self.gallery[near]] == self.groups[part][:, None]
            low = np.where(same, np.inf, values - error)
            high = np.where(same, np.inf, values + error)
            # No image beyond those found is nearer than this.
            beyond = values[:, -1] - rounding * (self.squares[part] + greatest) - small
            certain = np.partition(high, k - 1, axis=1)[:, k - 1] < beyond
            found = np.empty((len(part), k), int)
            sure = (part[certain], near[certain], low[certain], high[certain])
            found[certain] = self._in_order(*sure, self._distances)[:, :k]
            if not certain.all():
                found[~certain] = np.concatenate([near for _, near in self.by_host(part[~certain], k)])
            yield part, found

    @cached_property
    def _points(self) -> np.ndarray:
        """Numbers int [N] of the embeddings, the same number for equal ones."""
        rows = np.ascontiguousarray(self.x + 0.0)  # turns -0.0 into 0.0, which it equals
        return np.unique(rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel(), return_inverse=True)[1]

    def _distances(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Squared distances float64 [n] of images a [n] to b [n]."""
        found, step = np.empty(len(a)), max(1, BLOCK_BYTES // (8 * self.x.shape[1]))
        for start in range(0, len(a), step):
            part = slice(start, start + step)
            found[part] = np.square(self.x[a[part]] - self.x[b[part]]).sum(axis=1)
        return found

    def _distances_once(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The same, those of equal embeddings computed once: a network that collapsed has little else."""
        pairs = self._points[a] * len(self.x) + self._points[b]
        _, first, pair = np.unique(pairs, return_index=True, return_inverse=True)
        return self._distances(a[first], b[first])[pair]

    def _left_out(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Queries int [n], counted from 0, and the columns int [n] of the gallery that these do not find."""
        groups = self.groups[rows]
        sizes = self.ends[groups] - self.starts[groups]
        queries = np.repeat(np.arange(len(rows)), sizes)
        within = np.arange(len(queries)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return queries, self.by_group[np.repeat(self.starts[groups], sizes) + within]

    def _interval(
        self, bounds: np.ndarray, near: np.ndarray, rows: np.ndarray, rounding: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds [b, m] of the squared distances of queries [b] to columns [b, m] of the gallery.

        `bounds` are the lower bounds [b, M] to all of the gallery.
        """
        low = np.take_along_axis(bounds, near, axis=1)
        squares = self.squares[rows][:, None] + self.squares[self.gallery[near]]
        return low, low + 2 * rounding * squares

    def _in_order(
        self,
        rows: np.ndarray,
        near: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        distances_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """Neighbours int [b, m] of queries [b], given as columns of the gallery, by distance, then by index.

        `distances_of` computes them where the bounds `low` and `high` [b, m] leave the order open. NONE stands where
        these are infinite.
        """
        order = np.argsort(low, axis=1)
        near, low, high = (np.take_along_axis(a, order, axis=1) for a in (near, low, high))
        near = np.where(np.isfinite(low), self.gallery[near], NONE)
        # Neighbours whose bounds overlap form a run; the order of the runs is certain.
        begins = np.ones((len(rows), near.shape[1] + 1), bool)
        begins[:, 1:-1] = (low[:, 1:] > np.maximum.accumulate(high, axis=1)[:, :-1]) | (near[:, 1:] == NONE)
        i, j = np.nonzero(~(begins[:, :-1] & begins[:, 1:]))
        distances = np.zeros(near.shape)
        distances[i, j] = distances_of(rows[i], near[i, j])
        run = begins[:, :-1].cumsum(axis=1)
        return np.take_along_axis(near, np.lexsort((near, distances, run)), axis=1)
