"""Approximate search: a graph of near embeddings (HNSW) that usearch builds, walks and keeps in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from jaxml.files import printable


class Graph:
    """A graph of the first embeddings of an index, to which the others are added in their order.

    Source: Malkov & Yashunin 2018, Efficient and Robust Approximate Nearest Neighbor Search Using Hierarchical
    Navigable Small World Graphs.

    Args:
        dimensions: D.

    Raises:
        ImportError: usearch is not installed (extra `approximate`).
    """

    def __init__(self, dimensions: int):
        self._graph = _usearch()(ndim=dimensions, metric="l2sq", dtype="f32")

    def __len__(self) -> int:
        return len(self._graph)

    def add(self, embeddings: np.ndarray) -> None:
        """Add embeddings float32 [n, D]."""
        if len(embeddings):
            keys = np.arange(len(self), len(self) + len(embeddings))
            self._graph.add(keys, np.ascontiguousarray(embeddings, np.float32))

    def nearest(self, query: np.ndarray, k: int) -> np.ndarray:
        """Places of about the k nearest embeddings of a query float32 [D], in no certain order; rarely fewer than k."""
        return self._graph.search(query, k).keys.astype(int)

    def save(self, path: Path) -> None:
        """Write the graph to a file, whole or not at all."""
        unfinished = path.with_name(f"{path.name}.{uuid4().hex}.part")
        self._graph.save(str(unfinished))
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path, dimensions: int) -> Graph:
        """The graph that `save` wrote, in memory, so that it can grow.

        Raises:
            ImportError: usearch is not installed.
            ValueError: the file holds no graph of embeddings of that length.
        """
        graph = cls(dimensions)
        try:
            found: Any = type(graph._graph).restore(str(path))
        except (RuntimeError, ValueError):  # as usearch says that a file is not its own
            found = None
        if found is None or found.ndim != dimensions:
            raise ValueError(
                f"{printable(path)} holds no graph of embeddings of {dimensions} numbers: remove it, and the next "
                f"approximate search makes it again"
            )
        graph._graph = found
        return graph


def _usearch() -> Any:
    try:
        from usearch.index import Index
    except ImportError:
        raise ImportError(
            "approximate search needs usearch: `pip install jaxml[approximate]`, or search exactly"
        ) from None
    return Index
