"""Folders that jaxml makes: written under another name, moved to their place when whole, known by a marker in them.

Nothing else is ever replaced or removed. A folder under way is known by its name, by its marker, and by the lock that
its maker holds on that marker; once the maker has been killed, the lock is free and the folder is left over.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from jaxml.files import expand, new_folder, parse_json
from jaxml.names import text

MARKER = "made-by-jaxml.json"
PART = "jaxml-part-"
_PART_NAME = re.compile(PART + "[0-9a-f]{32}")


def is_ours(folder: Path) -> bool:
    """Whether a folder carries our marker."""
    return (folder / MARKER).is_file()


@contextmanager
def part(parent: Path, kind: str) -> Iterator[Path]:
    """A new folder in `parent`, with our marker, to be moved away when whole; removed at the end if it is still there.

    `kind` says in the marker what the folder holds. Folders that killed processes have left in `parent` are removed.
    """
    _remove_left_over(parent)
    folder = new_folder(parent, PART)
    try:
        with open(folder / "marker", "x") as marker:
            json.dump({"kind": kind}, marker)
            marker.flush()
            # Where locks are not supported, nobody gets this one, and nobody removes the folder.
            with suppress(OSError):
                fcntl.flock(marker, fcntl.LOCK_EX)
            os.rename(
                folder / "marker", folder / MARKER
            )  # only now can others take the folder for one of ours
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left_over(parent: Path) -> None:
    """Remove the folders of `part` in `parent` whose makers are gone."""
    if not parent.is_dir():
        return
    for folder in parent.iterdir():
        if _PART_NAME.fullmatch(folder.name) and not folder.is_symlink() and is_ours(folder):
            with suppress(OSError), open(folder / MARKER, "rb") as marker:
                fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def output(given: str | Path, kind: str, apart: Mapping[str, str | Path] | None = None) -> Iterator[Path]:
    """A folder to write results to; when all are written, they take their place in the folder that `--out` names.

    given: a folder that does not exist, is empty, or holds an earlier output of the same kind. Of that, the files that
    its marker lists are replaced, provided that nobody has changed them; all others in it are left alone.
    apart: folders by option, such as the input, that may be neither this folder nor in it nor around it.

    Raises ValueError, before anything is written, for a folder that is none of these.
    """
    folder = _resolved(given, "--out")
    for option, other in (apart or {}).items():
        _check_apart(folder, option, _resolved(other, option))
    # Beside a folder that is new, so that it appears whole; within one that exists, which may be a disk of its own.
    parent = folder if folder.is_dir() else folder.parent
    _earlier(folder, kind)
    with part(parent, kind) as new:
        yield new
        files = sorted(path for path in new.rglob("*") if path.is_file() and path != new / MARKER)
        hashes = {path.relative_to(new).as_posix(): _hash(path) for path in files}
        (new / MARKER).write_text(json.dumps({"kind": kind, "files": hashes}, indent=1) + "\n")
        _move(new, folder, hashes, kind)


def _resolved(path: str | Path, option: str) -> Path:
    # Path.resolve would raise RuntimeError for links that lead in a circle.
    return Path(os.path.realpath(expand(path, option)))


def _check_apart(folder: Path, option: str, other: Path) -> None:
    """Compared as files, not by name: links and other names of the same folder do not hide it."""
    if other.exists() and any(path.exists() and path.samefile(other) for path in (folder, *folder.parents)):
        where = "is" if folder == other else "lies in"
        raise ValueError(f"--out {text(folder)} {where} {option} {text(other)}; give another folder")
    if folder.exists() and any(path.exists() and path.samefile(folder) for path in other.parents):
        raise ValueError(f"--out {text(folder)} holds {option} {text(other)}; give another folder")


def _earlier(folder: Path, kind: str) -> dict[str, str]:
    """Hashes of the files of the output that a folder holds, by name; ValueError if it may not be written to."""
    shown = f"--out {text(folder)}"
    if not folder.exists():
        return {}
    if not folder.is_dir():
        raise ValueError(f"{shown} is not a folder")
    others = [path for path in folder.iterdir() if not _PART_NAME.fullmatch(path.name)]
    if not is_ours(folder):
        if others:
            raise ValueError(
                f"{shown} holds files that are not results of an earlier call, such as {text(others[0].name)}; "
                f"give a new folder or an empty one"
            )
        return {}
    marker = folder / MARKER
    found = parse_json(marker.read_bytes(), text(marker))
    hashes = found.get("files") if isinstance(found, dict) else None
    if not isinstance(hashes, dict) or found.get("kind") != kind:
        raise ValueError(f"{shown} holds something else than {kind} of an earlier call; give another folder")
    for name, digest in hashes.items():
        path = folder / name
        if ".." in path.parts or not path.parent.resolve().is_relative_to(folder):
            raise ValueError(
                f"{text(marker)} lists {text(name)}, which is not in its folder; give another --out"
            )
        if path.is_symlink() or (path.exists() and not (path.is_file() and _hash(path) == digest)):
            raise ValueError(
                f"{text(path)} has been changed since it was written: move it away, or give another --out"
            )
    return hashes


def _move(new: Path, folder: Path, hashes: Mapping[str, str], kind: str) -> None:
    """Put the new files, and their marker, in the place of the earlier ones."""
    if not folder.exists():
        os.rename(new, folder)
        return
    try:
        earlier = _earlier(folder, kind)
        for name in hashes:
            if name not in earlier and os.path.lexists(folder / name):
                raise ValueError(f"{text(folder / name)} is not of an earlier call and is in the way")
    except ValueError as error:
        # Somebody has put something there in the meantime; the results are not to be lost for that.
        kept = new.with_name(f"results-{uuid4().hex[:8]}")
        os.rename(new, kept)
        raise ValueError(f"{error}; the results are in {text(kept)}") from None
    for name in earlier:
        (folder / name).unlink(missing_ok=True)
    os.replace(new / MARKER, folder / MARKER)
    # Folders first: a page comes after what belongs to it.
    for name in sorted(hashes, key=lambda name: -name.count("/")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / name, folder / name)


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
