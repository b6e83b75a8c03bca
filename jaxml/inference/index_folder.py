"""The files of an index: parts that are written once and mapped from disk, and one file that names them.

A part is the embeddings of some pictures and their names. What was added since the last time becomes a further part,
so that an index grows without being written anew. `index.json` names the parts and is replaced last: files that it does
not name, as a stop may leave them, count for nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxml.files import expand, is_ours, parse_json, printable, replacing, write_atomically, write_json
from jaxml.inference import saving

HEAD = "index.json"
FORMAT = 2
"""Version of the folder's files."""
CHUNK_BYTES = 2**24
"""Bytes that are hashed at a time."""


class Part(NamedTuple):
    """Some of the pictures of an index."""

    names: list[str]
    embeddings: np.ndarray
    """float32 [n, D]"""


class Head(NamedTuple):
    """What an index says of itself; see `Index`."""

    model: str
    root: str
    left_out: dict[str, str]


class Written(NamedTuple):
    """An index as it lies in a folder: whoever adds to it must have seen these parts."""

    folder: Path
    parts: list[dict[str, Any]]

    @property
    def graphs(self) -> list[Path]:
        """Places of graphs for approximate search, first that of all embeddings, then those without the last parts."""
        return [self.folder / f"{part['sha256'][:16]}.graph" for part in reversed(self.parts)]


def write(folder: str | Path, head: Head, parts: Sequence[Part]) -> Written:
    """Write a whole index, as one part.

    Raises:
        ValueError: the folder holds something else than an index.
    """
    place = expand(folder, "the folder").absolute()
    names = [name for part in parts for name in part.names]
    with saving.whole_folder(place, "index") as unfinished:
        entries = [_write_part(unfinished, names, [part.embeddings for part in parts])]
        _write_head(unfinished, head, entries)
    named = {str(entries[0][key]) for key in ("names", "embeddings")}
    for old in (*place.glob("*.npy"), *place.glob("*.names.json"), *place.glob("*.graph")):
        if old.name not in named:
            old.unlink()
    return Written(place, entries)


def append(written: Written, head: Head, parts: Sequence[Part]) -> Written:
    """Add parts to an index that was written or read.

    Raises:
        ValueError: the index is not as it was then.
    """
    folder = written.folder
    if not is_ours(folder) or _content(folder)["parts"] != written.parts:
        raise ValueError(
            f"{printable(folder)} has been changed by another process: load the index again and add to that, or save "
            "this one to another folder"
        )
    entries = [*written.parts, *(_write_part(folder, part.names, [part.embeddings]) for part in parts)]
    _write_head(folder, head, entries)
    return Written(folder, entries)


def read(folder: str | Path) -> tuple[Written, Head, list[Part]]:
    """An index, with its embeddings mapped from disk.

    Raises:
        ValueError: the folder holds no index or a damaged one.
    """
    place = expand(folder, "the folder").absolute()
    if not (place / HEAD).is_file():
        raise ValueError(f"{printable(folder)} holds no index: there is no {HEAD}. Make one with model.index")
    content = _content(place)
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']} and not {FORMAT}")
        head = Head(str(content["model"]), str(content["root"]), dict(content["left_out"]))
        parts = [_read_part(place, entry) for entry in content["parts"]]
        if not parts:
            raise ValueError("it has no parts")
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"{printable(folder)} is damaged: {printable(error)}; make the index again"
        ) from None
    return Written(place, content["parts"]), head, parts


def _content(folder: Path) -> Any:
    return parse_json((folder / HEAD).read_bytes(), printable(folder / HEAD))


def _write_head(folder: Path, head: Head, entries: list[dict[str, Any]]) -> None:
    write_json(folder / HEAD, {"format": FORMAT, **head._asdict(), "parts": entries})


def _write_part(folder: Path, names: Sequence[str], embeddings: Sequence[np.ndarray]) -> dict[str, Any]:
    """Write the files of a part, which are named after what they hold; returns its entry in `index.json`."""
    listed = json.dumps(names)
    unnamed = folder / "unfinished.npy"
    with replacing(unnamed, "wb") as file:
        shape = (len(names), embeddings[0].shape[1])
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for rows in embeddings:
            file.write(np.ascontiguousarray(rows, "<f4").data)
    digest = _digest(listed.encode(), unnamed)
    entry = {"names": f"{digest[:16]}.names.json", "embeddings": f"{digest[:16]}.npy", "sha256": digest}
    unnamed.replace(folder / entry["embeddings"])
    write_atomically(folder / entry["names"], listed)
    return entry


def _read_part(folder: Path, entry: dict[str, Any]) -> Part:
    names, embeddings = (folder / Path(str(entry[key])).name for key in ("names", "embeddings"))
    listed = names.read_bytes()
    if _digest(listed, embeddings) != entry["sha256"]:
        raise ValueError(f"{names.name} and {embeddings.name} are not as they were written")
    return Part(list(map(str, json.loads(listed))), np.load(embeddings, mmap_mode="r", allow_pickle=False))


def _digest(names: bytes, embeddings: Path) -> str:
    """SHA-256 of the names and of the file of the embeddings."""
    digest = hashlib.sha256(names)
    with embeddings.open("rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(file: Any) -> Iterable[bytes]:
    return iter(lambda: file.read(CHUNK_BYTES), b"")
