"""Files that jaxml writes: whole or not at all, with the mode that the umask gives. Paths and JSON that it is given."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4


def expand(path: str | Path, option: str) -> Path:
    """The path that a user gave by `option`, with its `~` replaced by the home folder.

    Raises ValueError where there is no such home folder, as where HOME is not set.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{option} is {str(path)!r}, but there is no home folder to take for ~ (is HOME set?); set {option} to "
            f"a folder without ~"
        ) from None


def new_folder(parent: Path, prefix: str) -> Path:
    """A new, empty folder in `parent` with a name that no other process has: `prefix` and 32 random characters."""
    # Not tempfile.mkdtemp, whose folders no other user can read.
    folder = parent / f"{prefix}{uuid4().hex}"
    folder.mkdir(parents=True)
    return folder


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write to, which takes the place of `path` when all is written; an error leaves the old one alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hosts that share a folder may have the same process ids.
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
    """Write a text file under another name and move it to its place; a failed write leaves the old one alone."""
    with replacing(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """The same for a value as indented JSON."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def parse_json(data: bytes | str, name: str | Path) -> Any:
    """The value that JSON text stands for; ValueError, with the name of its file, for text that is no JSON."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError(f"{name} is no JSON file that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{name} is no JSON file: {error}") from None
