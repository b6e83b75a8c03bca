"""Embeddings of the files in folders, kept in `data.cache`: a folder is embedded once, and a stop loses little of it.

There is one SQLite file for each network and folder. A file that has changed is embedded anew, and one that has gone
stays there unused. The files can be removed at any time.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxml.data.sources.unlabelled import Pictures
from jaxml.files import expand, printable
from jaxml.inference.pictures import Source, none_readable

SECONDS = 20
"""Time after which new embeddings are written."""

TABLE = "CREATE TABLE IF NOT EXISTS embeddings (name BLOB PRIMARY KEY, version TEXT, embedding BLOB) WITHOUT ROWID"


class Embeds(Protocol):
    """A network as far as folders and indices need it."""

    @property
    def fingerprint(self) -> str:
        """What tells its embeddings from those of other networks."""

    @property
    def dimensions(self) -> int:
        """D, the length of an embedding."""

    @property
    def cache(self) -> str:
        """The folder `data.cache`; empty to keep nothing."""

    def embed(self, pictures: Any, boxes: Any = None) -> np.ndarray:
        """Embeddings float32 [n, D] of pictures."""

    def embed_parts(
        self, source: Source, errors: dict[str, str]
    ) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Places and embeddings of pictures that can be read; the others' errors go into `errors` by name."""


def embed_folder(model: Embeds, pictures: Pictures) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Embeddings of the pictures of a folder that can be read, those that are kept and new ones, which are kept.

    Returns:
        Embeddings float32 [n, D], their places int [n] among the pictures, and the error of each other one by its name.

    Raises:
        ImageError: none of them can be read.
    """
    versions = [_version(pictures, name) for name in pictures.names]
    embeddings = np.zeros((len(pictures), model.dimensions), np.float32)
    errors: dict[str, str] = {}
    with closing(_open(model, pictures.root)) as file:
        kept = _read(file, model.dimensions)
        missing, done = [], []
        for i, name in enumerate(pictures.names):
            version, embedding = kept.get(name, (None, None))
            if version is not None and version == versions[i]:
                embeddings[i] = embedding
                done.append(i)
            else:
                missing.append(i)
        new: list[int] = []
        written, last = 0, time.monotonic()
        for places, part in model.embed_parts(pictures.take(np.array(missing, int)), errors):
            rows = [missing[place] for place in places]
            embeddings[rows] = part
            new += rows
            if time.monotonic() - last > SECONDS:
                _write(file, pictures, versions, embeddings, new[written:])
                written, last = len(new), time.monotonic()
        _write(file, pictures, versions, embeddings, new[written:])
    rows = sorted(done + new)
    if not rows:
        raise none_readable(errors)
    return embeddings[rows], np.array(rows, int), errors


def _version(pictures: Pictures, name: str) -> str:
    """What changes when a file or its crop does; empty for one that cannot be found."""
    try:
        found = os.stat(pictures.root / name)
    except OSError:
        return ""
    corners = None if pictures.corners is None else pictures.corners.get(name)
    return f"{found.st_size} {found.st_mtime_ns} {None if corners is None else corners.tolist()}"


def _open(model: Embeds, root: Path) -> sqlite3.Connection:
    """The file of a network and a folder; one in memory where none can be kept."""
    if not model.cache:
        return _connect(":memory:")
    folder = expand(model.cache, "--data.cache") / "embeddings"
    key = f"{model.fingerprint} {root}".encode(errors="surrogateescape")
    place = folder / f"{hashlib.sha256(key).hexdigest()}.sqlite"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _connect(place)
    except (OSError, sqlite3.OperationalError) as error:
        warnings.warn(f"embeddings are not kept in {printable(folder)}: {printable(error)}", stacklevel=3)
        return _connect(":memory:")
    except sqlite3.DatabaseError:
        warnings.warn(f"{printable(place)} is damaged, and embeddings are made anew", stacklevel=3)
        place.unlink()
        return _connect(place)


def _connect(place: str | Path) -> sqlite3.Connection:
    file = sqlite3.connect(place, timeout=60)
    try:
        with file:
            file.execute(TABLE)
    except sqlite3.Error:
        file.close()
        raise
    return file


def _read(file: sqlite3.Connection, dimensions: int) -> dict[str, tuple[str, np.ndarray]]:
    """Version and embedding float32 [D] by name."""
    rows = file.execute(
        "SELECT name, version, embedding FROM embeddings WHERE length(embedding) = ?", (4 * dimensions,)
    )
    return {os.fsdecode(name): (version, np.frombuffer(data, np.float32)) for name, version, data in rows}


def _write(
    file: sqlite3.Connection,
    pictures: Pictures,
    versions: Sequence[str],
    embeddings: np.ndarray,
    rows: Sequence[int],
) -> None:
    """Keep the embeddings of some rows, all of them or none."""
    lines = [
        (os.fsencode(pictures.names[i]), versions[i], embeddings[i].tobytes()) for i in rows if versions[i]
    ]
    with file:
        file.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", lines)
