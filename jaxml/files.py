"""Reading and writing files: paths, JSON, names made printable, files and folders that appear whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

MARKER = "made-by-jaxml.json"
"""File by which a folder is known as one that jaxml made."""
UNFINISHED = re.compile("jaxml-part-[0-9a-f]{32}")
"""Names of folders that are still being written, or were when their process was killed."""


def expand(path: str | Path, option: str) -> Path:
    """Replace the `~` of a path that a user gave by `option` with the home folder.

    Raises:
        ValueError: there is no home folder, for example because HOME is not set.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{option} is {str(path)!r}, but there is no home folder to take for ~ (is HOME set?); set {option} to "
            f"a folder without ~"
        ) from None


def printable(name: object) -> str:
    """Show any text, such as the name of a file, as one line of printable Unicode.

    A file name may hold line ends, sequences that a terminal obeys, marks that turn the direction of writing, and bytes
    that are not UTF-8. They become Python escapes such as \\n, \\x1b and \\u202e; \\udcff stands for the byte 255.
    """
    shown = str(name)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


def parse_json(data: bytes | str, name: str | Path) -> Any:
    """Parse JSON text that was read from the file `name`.

    Raises:
        ValueError: the text is not JSON; the message names the file.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError(f"{name} is no JSON file that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{name} is no JSON file: {error}") from None


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a new file that takes the place of `path` once it is complete; after an error the old file is unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A process id would not do: hosts that share a folder may have the same ones.
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        with part.open(mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all; see `replacing`."""
    with replacing(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


@contextmanager
def unfinished_folder(parent: Path, kind: str) -> Iterator[Path]:
    """Make a folder in `parent` to fill and then `move_into_place`; at the end it is removed if it is still there.

    Its marker says `kind`, what the folder holds, and is locked meanwhile. Folders whose processes were killed are
    known by their name, their marker and the free lock; those in `parent` are removed first.
    """
    _remove_abandoned(parent)
    # tempfile.mkdtemp would make folders that no other user can read.
    folder = parent / f"jaxml-part-{uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        with open(folder / "marker", "x") as marker:
            json.dump({"kind": kind}, marker)
            marker.flush()
            # Where locks are not supported, no process can get this one, so none removes the folder.
            with suppress(OSError):
                fcntl.flock(marker, fcntl.LOCK_EX)
            # Only under its final name can other processes find the marker, and by then it is locked.
            os.rename(folder / "marker", folder / MARKER)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into_place(part: Path, folder: Path) -> None:
    """Give a finished folder its name; the files of a folder with our marker that has the name are replaced one by one.

    Raises:
        OSError: something else than a folder with our marker is in the way.
    """
    try:
        os.rename(part, folder)
    except OSError:
        if not is_ours(folder):
            raise
        # Files in subfolders come first: a page must not appear before the pictures that it shows.
        files = [path for path in part.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: -len(path.parts)):
            target = folder / path.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)


def is_ours(folder: Path) -> bool:
    """Whether a folder carries our marker."""
    return (folder / MARKER).is_file()


def _remove_abandoned(parent: Path) -> None:
    """Remove the unfinished folders in `parent` whose processes are gone."""
    if not parent.is_dir():
        return
    for folder in parent.iterdir():
        if UNFINISHED.fullmatch(folder.name) and not folder.is_symlink() and is_ours(folder):
            with suppress(OSError), open(folder / MARKER, "rb") as marker:
                fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
