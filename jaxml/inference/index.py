"""Exact search among embeddings of pictures: names and embeddings in a folder, queried by pictures or embeddings."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxml import arguments
from jaxml.data.sources import unlabelled
from jaxml.evaluation.neighbours import LARGE, neighbours
from jaxml.files import expand, printable
from jaxml.inference import index_folder
from jaxml.inference.graph import Graph
from jaxml.inference.index_folder import Head, Part, Written
from jaxml.inference.kept import Embeds, embed_folder
from jaxml.inference.pictures import given

BLOCK_BYTES = 64 * 2**20
"""Memory of the distances of one block of queries."""


class Matches(NamedTuple):
    """The k nearest pictures of each of Q queries."""

    names: list[list[str]]
    """Q lists of k names, the nearest first; equally near ones in the order of the index."""
    distances: np.ndarray
    """float32 [Q, k], Euclidean."""
    rows: np.ndarray
    """int [Q, k], their places in the index."""


class Index:
    """N pictures by name, with the embeddings that one model made of them, in the order in which they were added.

    Args:
        names: one for each picture, all different.
        embeddings: float32 [N, D].
        made_by: the model's fingerprint.
        model: the model itself, by which pictures are added and asked for.
        root: the folder from which the names are paths; empty if they are no paths.
        left_out: the errors, by name, of files that could not be read.

    Raises:
        ValueError: the model is another one, a name is given twice, or the embeddings are no finite matrix [N, D].
    """

    def __init__(
        self,
        names: Sequence[str],
        embeddings: np.ndarray,
        made_by: str,
        *,
        model: Embeds | None = None,
        root: str = "",
        left_out: Mapping[str, str] | None = None,
    ):
        if model is not None and model.fingerprint != made_by:
            raise ValueError(
                f"the index was made by another model, whose fingerprint is {made_by[:12]} and not "
                f"{model.fingerprint[:12]}: load that model, or make the index again"
            )
        self.made_by, self.root, self.left_out = made_by, root, dict(left_out or {})
        self.names: list[str] = []
        self._model = model
        self._parts: list[Part] = []
        self._squares: list[np.ndarray] = []
        self._written: Written | None = None
        self._graph: Graph | None = None
        self._grow(names, embeddings)

    def _grow(self, names: Sequence[str], embeddings: np.ndarray) -> None:
        embeddings = arguments.matrix("embeddings", embeddings).astype(np.float32, copy=False)
        if len(embeddings) != len(names):
            raise ValueError(f"{len(names)} names do not belong to {len(embeddings)} embeddings")
        known = set(self.names)
        for name in names:
            if name in known:
                raise ValueError(f"{printable(name)} is given twice: the names in an index are all different")
            known.add(name)
        self.names = [*self.names, *names]
        self._parts = [*self._parts, Part(list(names), embeddings)]
        self._squares = [*self._squares, np.einsum("ij,ij->i", embeddings, embeddings)]

    @property
    def embeddings(self) -> np.ndarray:
        """float32 [N, D], mapped from disk where the index was loaded and nothing was added to it."""
        parts = [part.embeddings for part in self._parts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, model: Embeds, pictures: Any, boxes: Any = None) -> Index:
        """The index of a folder, or of anything that `Model.embed` takes; see `Model.index`."""
        if isinstance(pictures, str | Path) and expand(pictures, "the folder").is_dir():
            if boxes is not None:
                raise ValueError("boxes: give a list of the files to which they belong, not a folder")
            index = cls.of_folder(model, unlabelled.find(pictures))
            if index.left_out:
                count, first = len(index.left_out), next(iter(index.left_out.values()))
                warnings.warn(f"{count} files left out of the index: {first}", stacklevel=3)
            return index
        source = given(pictures, boxes)
        files = all(isinstance(item, str) for item in source.items)
        root = os.getcwd() if files else ""  # to find relative paths again
        return cls(source.names, model.embed(source), model.fingerprint, model=model, root=root)

    @classmethod
    def of_folder(cls, model: Embeds, pictures: unlabelled.Pictures) -> Index:
        """The index of the pictures of a folder that can be read.

        Raises:
            ImageError: there are none.
        """
        embeddings, rows, errors = embed_folder(model, pictures)
        names, root = [pictures.names[i] for i in rows], str(pictures.root)
        return cls(names, embeddings, model.fingerprint, model=model, root=root, left_out=errors)

    def add(self, pictures: Any, boxes: Any = None) -> None:
        """Add pictures, anything that `Model.embed` takes; those without a path are numbered on.

        Raises:
            ImageError: a picture cannot be read; nothing is added then.
            ValueError: a name is in the index already, or the index was loaded without its model.
        """
        source = given(pictures, boxes, first=len(self))
        embeddings = self._embeds().embed(source)
        self._grow(source.names, embeddings)

    def search(self, query: Any, k: int = 10, *, approximate: bool = False) -> Matches:
        """The k nearest pictures of each query, by the Euclidean distance of embeddings.

        The order is that of distances computed in float64 from differences. A product in float32 finds the pictures
        that may be among the nearest, so that none is missed. An approximate search looks at few embeddings, and may
        miss some: it walks a graph, which the first such search builds and `save` keeps.

        Args:
            query: embeddings float [D] or [Q, D], or anything that `Model.embed` takes.
            k: number of pictures, cut to N.
            approximate: whether pictures may be missed.

        Raises:
            ImageError: a picture cannot be read.
            ImportError: usearch is not installed (extra `approximate`) for an approximate search.
            ValueError: embeddings have another length, k is no whole number of at least 1, or the index was loaded
                without its model and the query is a picture.

        Example:
            >>> index = Index(["a", "b", "c"], np.array([[1.0, 0], [1, 0], [0, 1]]), "a model")
            >>> index.search(np.array([1.0, 0.0]), k=2).names
            [['a', 'b']]
        """
        k = min(arguments.whole("k", k), len(self))
        queries = self._queries(query)
        if approximate:
            rows, distances = self._search_graph(queries, k)
        elif len(queries) * len(self) < LARGE:
            rows, distances = self._search_few(queries, k)
        else:
            rows, distances = self._search_many(queries, k)
        return Matches([[self.names[i] for i in line] for line in rows], distances, rows)

    def _search_few(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows int [Q, k] and distances float32 [Q, k], on the host and without a copy of the embeddings."""
        rows = np.zeros((len(queries), k), int)
        distances = np.zeros((len(queries), k), np.float32)
        starts = np.cumsum([0, *(len(part.names) for part in self._parts)])
        largest = max(squares.max() for squares in self._squares)
        block = max(1, BLOCK_BYTES // (4 * len(self)))
        products = np.empty((min(block, len(queries)), len(self)), np.float32)
        for start in range(0, len(queries), block):
            part = queries[start : start + block]
            # |q - x|^2 - |q|^2, and how far rounding may have moved it from its value.
            values = products[: len(part)]
            for first, (_, x), squares in zip(starts, self._parts, self._squares, strict=False):
                values[:, first : first + len(x)] = (-2 * part) @ x.T
                values[:, first : first + len(x)] += squares
            size = np.square(part).sum(1)[:, None] + largest
            rounding = 4 * (part.shape[1] + 8) * np.finfo(np.float32).eps * size
            limits = np.partition(values, k - 1, axis=1)[:, k - 1 : k] + rounding
            for i, near in enumerate(values <= limits):
                places = np.flatnonzero(near)
                exact = self._exact(part[i], places)
                order = np.argsort(exact, kind="stable")[:k]
                rows[start + i], distances[start + i] = places[order], exact[order]
        return rows, distances

    def _search_many(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The same on the devices there are, which hold a copy of the embeddings."""
        both = np.concatenate([self.embeddings, queries])
        asked, found = np.arange(len(self), len(both)), np.arange(len(self))
        rows = np.concatenate([near for _, near in neighbours(both, k, asked, found)])
        exact = [self._exact(query, places) for query, places in zip(queries, rows, strict=True)]
        return rows, np.asarray(exact, np.float32)

    def _search_graph(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The same by the graph, after what it lacks has been added."""
        if self._graph is None:
            kept = [] if self._written is None else [path for path in self._written.graphs if path.exists()]
            self._graph = Graph.load(kept[0], queries.shape[1]) if kept else Graph(queries.shape[1])
        start = 0
        for part in self._parts:
            self._graph.add(part.embeddings[max(0, len(self._graph) - start) :])
            start += len(part.names)
        near = [self._graph.nearest(query, k) for query in queries]
        if any(len(places) < k for places in near):
            return self._search_few(queries, k)
        exact = [self._exact(query, places) for query, places in zip(queries, near, strict=True)]
        order = [np.lexsort(keys) for keys in zip(near, exact, strict=True)]
        rows, distances = (np.take_along_axis(np.array(a), np.array(order), 1) for a in (near, exact))
        return rows, distances.astype(np.float32)

    def _exact(self, query: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Distances float64 [n] of a query float32 [D] to the pictures at places int [n], from differences."""
        starts = np.cumsum([0, *(len(part.names) for part in self._parts)])
        x = np.empty((len(places), len(query)))
        for first, last, part in zip(starts, starts[1:], self._parts, strict=False):
            here = (places >= first) & (places < last)
            x[here] = part.embeddings[places[here] - first]
        return np.linalg.norm(query[None, :].astype(np.float64) - x, axis=1)

    def save(self, folder: str | Path) -> None:
        """Write `index.json` and the files that it names into a folder, whole or not at all.

        In the folder from which the index was loaded, or where it was saved before, only what was added is written.

        Raises:
            ValueError: the folder holds something else than an index, or another process has added to this one.
        """
        head = Head(self.made_by, self.root, self.left_out)
        if self._written is not None and self._written.folder == expand(folder, "the folder").absolute():
            new = self._parts[len(self._written.parts) :]
            self._written = index_folder.append(self._written, head, new)
        else:
            self._written = index_folder.write(folder, head, self._parts)
            self._parts = [Part(self.names, self.embeddings)]
            self._squares = [np.concatenate(self._squares)]
        if self._graph is not None and len(self._graph) == len(self):
            whole, *shorter = self._written.graphs
            self._graph.save(whole)
            for graph in shorter:
                graph.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | Path, model: Embeds | None = None) -> Index:
        """The index that `save` wrote, mapped from disk; with its model, pictures can be added and asked for.

        Raises:
            ValueError: the folder holds no index or a damaged one, or another model made it.
        """
        written, head, (first, *others) = index_folder.read(folder)
        index = cls(*first, head.model, model=model, root=head.root, left_out=head.left_out)
        for part in others:
            index._grow(*part)
        index._written = written
        return index

    def _queries(self, query: Any) -> np.ndarray:
        """Embeddings float32 [Q, D] of a query."""
        if hasattr(query, "dtype") and np.issubdtype(query.dtype, np.floating) and np.ndim(query) <= 2:
            values = arguments.matrix("query", np.atleast_2d(np.asarray(query))).astype(np.float32)
            if values.shape[1] != self.embeddings.shape[1]:
                raise ValueError(
                    f"query has embeddings of {values.shape[1]} numbers, and those of this index have "
                    f"{self.embeddings.shape[1]}: it was made by another model"
                )
            return values
        return self._embeds().embed(query)

    def _embeds(self) -> Embeds:
        if self._model is None:
            raise ValueError(
                "this index was loaded without its model, which embeds pictures: Index.load(folder, model)"
            )
        return self._model
