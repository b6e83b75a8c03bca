"""Neighbours ranked again by the neighbours that images share: k-reciprocal re-ranking."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from jaxml import arguments
from jaxml.evaluation.neighbours import NONE, Search, neighbours
from jaxml.evaluation.protocol import Protocol

BLOCK = 2**18
"""Pairs of images whose distances are computed at a time."""


def reranked(k1: int = 20, k2: int = 6, weight: float = 0.3) -> Search:
    """A search that ranks images by the neighbours they share with the query as well as by their distance.

        (1 - weight) d_J(q, x) + weight |q - x|, d_J(q, x) = 1 - sum_c min(V_qc, V_xc) / sum_c max(V_qc, V_xc)

    V_ic is e^{-|x_i - x_c|} where c is one of the expanded k-reciprocal neighbours of i, else 0, divided by its sum
    over c, and then averaged over i and its k2 - 1 nearest images. i and c are k1-reciprocal neighbours where each is
    among the k1 nearest of the other, itself not counted; those of c with k1 / 2 join those of i where two thirds of
    them are among these already. Queries and gallery together are the images whose neighbours count.

    Args:
        k1: at least 1, the neighbourhood; about the images of a class.
        k2: at least 1, the images over which V is averaged; 1 for none.
        weight: from 0 to 1, of the distance.

    Returns:
        A function that is called as `jaxml.evaluation.neighbours.neighbours` is, for `retrieval(search=...)`.

    Raises:
        ValueError: k1 or k2 is no whole number of at least 1, or the weight is not from 0 to 1.

    Source: Zhong et al. 2017, Re-ranking Person Re-identification with k-reciprocal Encoding, equations 2 to 12, with
    Euclidean distances as they are. Dividing V by its sum is from its authors' code.

    Example:
        >>> from jaxml import metrics
        >>> x = np.random.default_rng(0).normal(size=(60, 2)) + 4 * np.eye(2)[np.arange(60) % 2]
        >>> scores = metrics.retrieval(x, np.arange(60) % 2, search=reranked(k1=10))
        >>> scores["map@r"] > metrics.retrieval(x, np.arange(60) % 2)["map@r"]
        True
    """
    k1, k2 = arguments.whole("k1", k1), arguments.whole("k2", k2)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be from 0 to 1, got {weight!r}")

    def search(
        embeddings: np.ndarray,
        k: int,
        queries: np.ndarray | None = None,
        gallery: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        x = arguments.matrix("embeddings", embeddings).astype(np.float64)
        protocol = Protocol.of(len(x), queries, gallery, groups)
        among = np.union1d(protocol.queries, protocol.gallery)
        shares = _shares(x[among], k1, k2)
        place = np.full(len(x), NONE)
        place[among] = np.arange(len(among))
        of_gallery = shares[place[protocol.gallery]].tocsc()
        for asked, near in neighbours(x, k, queries, gallery, groups):
            found = np.full(near.shape, NONE)
            for row, (i, nearest) in enumerate(zip(asked, near, strict=True)):
                own = shares[[place[i]]]
                common = _common(own.indices, own.data, of_gallery)
                # An image that shares nothing cannot come before one that is nearer.
                others = np.union1d(protocol.gallery[np.flatnonzero(common)], nearest[nearest != NONE])
                others = others[protocol.groups[others] != protocol.groups[i]]
                shared = common[np.searchsorted(protocol.gallery, others)]
                jaccard = 1 - shared / (2 - shared)
                distance = np.linalg.norm(x[others] - x[i], axis=1)
                order = np.lexsort((others, (1 - weight) * jaccard + weight * distance))[: near.shape[1]]
                found[row, : len(order)] = others[order]
            yield asked, found

    return search


def _shares(x: np.ndarray, k1: int, k2: int) -> sparse.csr_array:
    """V [n, n] of all images, of embeddings float64 [n, D]."""
    n = len(x)
    near = (
        np.concatenate([near for _, near in neighbours(x, max(k1, k2))]) if n > 1 else np.zeros((1, 0), int)
    )

    def nearest(k: int) -> sparse.csr_array:
        """1 where an image, or the image itself, is among the k nearest of another."""
        k = min(k, near.shape[1])
        columns = np.concatenate([np.arange(n)[:, None], near[:, :k]], axis=1)
        ends = (k + 1) * np.arange(n + 1)
        return sparse.csr_array((np.ones(columns.size, np.int32), columns.ravel(), ends), shape=(n, n))

    def reciprocal(k: int) -> sparse.csr_array:
        both = nearest(k)
        return both.multiply(both.T).tocsr()

    whole, half = reciprocal(k1), reciprocal(round(k1 / 2))
    within = (whole @ half.T).multiply(whole).tocoo()
    joins = 3 * within.data >= 2 * half.sum(axis=1)[within.col]
    joined = sparse.csr_array(
        (np.ones(joins.sum(), np.int32), (within.row[joins], within.col[joins])), shape=(n, n)
    )
    expanded = (whole + joined @ half).tocoo()
    weights = np.empty(expanded.nnz)
    for start in range(0, expanded.nnz, BLOCK):
        part = slice(start, start + BLOCK)
        difference = x[expanded.row[part]] - x[expanded.col[part]]
        weights[part] = np.exp(-np.linalg.norm(difference, axis=1))
    weights /= np.bincount(expanded.row, weights, minlength=n)[expanded.row]
    shares = sparse.csr_array((weights, (expanded.row, expanded.col)), shape=(n, n))
    mean = nearest(k2 - 1).astype(np.float64)
    return (mean @ shares / min(k2, near.shape[1] + 1)).tocsr()


def _common(columns: np.ndarray, shares: np.ndarray, others: sparse.csc_array) -> np.ndarray:
    """sum_c min(V_qc, V_xc) float64 [M] of a query's V, given by its columns, with those of M images."""
    chosen = others[:, columns]
    least = np.minimum(chosen.data, np.repeat(shares, np.diff(chosen.indptr)))
    return np.bincount(chosen.indices, least, minlength=others.shape[0])
