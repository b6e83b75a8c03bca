"""The folder for results that `--out` names: they appear there complete, and replace earlier results alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from jaxml.files import (
    MARKER,
    UNFINISHED,
    expand,
    is_ours,
    move_into_place,
    parse_json,
    printable,
    unfinished_folder,
)


@contextmanager
def output_folder(
    given: str | Path, kind: str, apart: Mapping[str, str | Path] | None = None
) -> Iterator[Path]:
    """Make a folder to write results to; when all are written, they are moved to the folder that `--out` names.

    Args:
        given: a folder that does not exist, is empty, or holds earlier results of the same `kind`. Of those, the files
            that its marker lists are replaced, provided that nobody has changed them; all other files in it stay.
        kind: what the results are, in a word.
        apart: folders by option, such as that of the input; `given` may not be one of them, nor lie in or around one.

    Raises:
        ValueError: `given` is none of these; nothing has been written then.
    """
    folder = _resolve(given, "--out")
    for option, other in (apart or {}).items():
        _check_apart(folder, option, _resolve(other, option))
    # A new folder is made beside its place, so that it appears whole. One that exists may be a disk of its own, to
    # which only folders inside it can be moved at once.
    parent = folder if folder.is_dir() else folder.parent
    _earlier_results(folder, kind)
    with unfinished_folder(parent, kind) as new:
        yield new
        files = sorted(path for path in new.rglob("*") if path.is_file() and path != new / MARKER)
        hashes = {path.relative_to(new).as_posix(): _hash(path) for path in files}
        (new / MARKER).write_text(json.dumps({"kind": kind, "files": hashes}, indent=1) + "\n")
        if folder.exists():
            _remove_earlier_results(new, folder, hashes, kind)
            os.replace(new / MARKER, folder / MARKER)
        move_into_place(new, folder)


def _resolve(path: str | Path, option: str) -> Path:
    # Path.resolve would raise RuntimeError for links that lead in a circle.
    return Path(os.path.realpath(expand(path, option)))


def _check_apart(folder: Path, option: str, other: Path) -> None:
    """Compare the folders as files, not by name: neither links nor second names of a folder hide it."""
    if other.exists() and any(path.exists() and path.samefile(other) for path in (folder, *folder.parents)):
        relation = "is" if folder == other else "lies in"
        raise ValueError(
            f"--out {printable(folder)} {relation} {option} {printable(other)}; give another folder"
        )
    if folder.exists() and any(path.exists() and path.samefile(folder) for path in other.parents):
        raise ValueError(f"--out {printable(folder)} holds {option} {printable(other)}; give another folder")


def _earlier_results(folder: Path, kind: str) -> dict[str, str]:
    """SHA-256 by name of the files of the earlier results in a folder; ValueError if it may not be written to."""
    shown = f"--out {printable(folder)}"
    if not folder.exists():
        return {}
    if not folder.is_dir():
        raise ValueError(f"{shown} is not a folder")
    if not is_ours(folder):
        others = [path for path in folder.iterdir() if not UNFINISHED.fullmatch(path.name)]
        if others:
            raise ValueError(
                f"{shown} holds files that are not results of an earlier call, such as "
                f"{printable(others[0].name)}; give a new folder or an empty one"
            )
        return {}
    marker = folder / MARKER
    content = parse_json(marker.read_bytes(), printable(marker))
    hashes = content.get("files") if isinstance(content, dict) else None
    if not isinstance(hashes, dict) or content.get("kind") != kind:
        raise ValueError(f"{shown} holds something else than {kind} of an earlier call; give another folder")
    for name, digest in hashes.items():
        path = folder / name
        if ".." in path.parts or not path.parent.resolve().is_relative_to(folder):
            raise ValueError(
                f"{printable(marker)} lists {printable(name)}, which is not in its folder; give another --out"
            )
        if path.is_symlink() or (path.exists() and not (path.is_file() and _hash(path) == digest)):
            raise ValueError(
                f"{printable(path)} has been changed since it was written: move it away, or give another --out"
            )
    return hashes


def _remove_earlier_results(new: Path, folder: Path, hashes: Mapping[str, str], kind: str) -> None:
    """Make room in a folder for the results in `new`, which are kept beside it if somebody has put files in the way."""
    try:
        earlier = _earlier_results(folder, kind)
        for name in hashes:
            if name not in earlier and os.path.lexists(folder / name):
                raise ValueError(f"{printable(folder / name)} is not of an earlier call and is in the way")
    except ValueError as error:
        kept = new.with_name(f"results-{uuid4().hex[:8]}")
        os.rename(new, kept)
        raise ValueError(f"{error}; the results are in {printable(kept)}") from None
    for name in earlier:
        (folder / name).unlink(missing_ok=True)


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
