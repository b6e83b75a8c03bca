"""Exact search among embeddings of pictures: names and embeddings in a folder, queried by pictures or embeddings."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxml import arguments
from jaxml.data.sources import unlabelled
from jaxml.files import expand, parse_json, printable, write_json
from jaxml.inference import saving
from jaxml.inference.kept import Embeds, embed_folder
from jaxml.inference.pictures import given

NAMES, EMBEDDINGS = "index.json", "embeddings.npy"
FORMAT = 1
"""Version of the folder's files."""
BLOCK_BYTES = 64 * 2**20
"""Memory of the distances of one block of queries."""


class Matches(NamedTuple):
    """The k nearest pictures of each of Q queries."""

    names: list[list[str]]
    """Q lists of k names, the nearest first; equally near ones in the order of their names."""
    distances: np.ndarray
    """float32 [Q, k], Euclidean."""
    rows: np.ndarray
    """int [Q, k], their places in the index."""


class Index:
    """N pictures by name, in the order of their names, with the embeddings that one model made of them.

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
        self._model = model
        self._fill(names, embeddings)

    def _fill(self, names: Sequence[str], embeddings: np.ndarray) -> None:
        embeddings = arguments.matrix("embeddings", embeddings).astype(np.float32)
        if len(embeddings) != len(names):
            raise ValueError(f"{len(names)} names do not belong to {len(embeddings)} embeddings")
        order = sorted(range(len(names)), key=names.__getitem__)
        ordered = [names[i] for i in order]
        if twice := [name for name, following in pairwise(ordered) if name == following]:
            raise ValueError(f"{printable(twice[0])} is given twice: the names in an index are all different")
        self.names, self.embeddings = ordered, embeddings[order]
        self._squares = np.square(self.embeddings).sum(1)

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
        self._fill([*self.names, *source.names], np.concatenate([self.embeddings, embeddings]))

    def search(self, query: Any, k: int = 10) -> Matches:
        """The k nearest pictures of each query, by the Euclidean distance of embeddings.

        The order is that of distances computed in float64 from differences. A product in float32 finds the pictures
        that may be among the nearest.

        Args:
            query: embeddings float [D] or [Q, D], or anything that `Model.embed` takes.
            k: number of pictures, cut to N.

        Raises:
            ImageError: a picture cannot be read.
            ValueError: embeddings have another length, k is no whole number of at least 1, or the index was loaded
                without its model and the query is a picture.

        Example:
            >>> index = Index(["b", "a", "c"], np.array([[1.0, 0], [1, 0], [0, 1]]), "a model")
            >>> index.search(np.array([1.0, 0.0]), k=2).names
            [['a', 'b']]
        """
        k = min(arguments.whole("k", k), len(self))
        queries = self._queries(query)
        rows = np.zeros((len(queries), k), int)
        distances = np.zeros((len(queries), k), np.float32)
        block = max(1, BLOCK_BYTES // (4 * len(self)))
        for start in range(0, len(queries), block):
            part = queries[start : start + block]
            # |q - x|^2 - |q|^2, and how far rounding may have moved it from its value.
            products = self._squares[None, :] - 2 * part @ self.embeddings.T
            size = np.square(part).sum(1)[:, None] + self._squares.max()
            rounding = 4 * (part.shape[1] + 8) * np.finfo(np.float32).eps * size
            limits = np.partition(products, k - 1, axis=1)[:, k - 1 : k] + rounding
            for i, near in enumerate(products <= limits):
                places = np.flatnonzero(near)
                exact = np.linalg.norm(part[i][None, :].astype(np.float64) - self.embeddings[places], axis=1)
                order = np.argsort(exact, kind="stable")[:k]
                rows[start + i], distances[start + i] = places[order], exact[order]
        return Matches([[self.names[i] for i in line] for line in rows], distances, rows)

    def save(self, folder: str | Path) -> None:
        """Write `index.json` and `embeddings.npy` into a folder, whole or not at all.

        Raises:
            ValueError: the folder holds something else than an index.
        """
        buffer = io.BytesIO()
        np.save(buffer, self.embeddings)
        content = {
            "format": FORMAT,
            "model": self.made_by,
            "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            "root": self.root,
            "left_out": self.left_out,
            "names": self.names,
        }
        with saving.whole_folder(folder, "index") as part:
            (part / EMBEDDINGS).write_bytes(buffer.getvalue())
            write_json(part / NAMES, content)

    @classmethod
    def load(cls, folder: str | Path, model: Embeds | None = None) -> Index:
        """The index that `save` wrote; with its model, pictures can be added and asked for.

        Raises:
            ValueError: the folder holds no index or a damaged one, or another model made it.
        """
        place = expand(folder, "the folder")
        if not (place / NAMES).is_file():
            raise ValueError(
                f"{printable(folder)} holds no index: there is no {NAMES}. Make one with model.index"
            )
        content = parse_json((place / NAMES).read_bytes(), printable(place / NAMES))
        data = (place / EMBEDDINGS).read_bytes()
        try:
            if content["format"] != FORMAT or content["sha256"] != hashlib.sha256(data).hexdigest():
                raise ValueError("its files are not of this format or do not belong together")
            embeddings = np.load(io.BytesIO(data), allow_pickle=False)
            names, root, left_out = (
                list(map(str, content["names"])),
                str(content["root"]),
                content["left_out"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{printable(folder)} is damaged: {printable(error)}; make the index again"
            ) from None
        return cls(names, embeddings, content["model"], model=model, root=root, left_out=left_out)

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
