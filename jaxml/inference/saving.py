"""Folders that jaxml makes for its users: whole or not at all, and never in the place of anything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxml.files import (
    MARKER,
    UNFINISHED,
    expand,
    is_ours,
    move_into_place,
    printable,
    unfinished_folder,
)


@contextmanager
def whole_folder(path: str | Path, kind: str) -> Iterator[Path]:
    """Make a new folder to fill, which takes its place at `path` at the end, or that of an earlier one of its `kind`.

    Raises:
        ValueError: something else is at `path`; nothing has been written then.
    """
    folder = expand(path, "the folder").absolute()
    _check_free(folder, kind)
    with unfinished_folder(folder.parent, kind) as part:
        yield part
        move_into_place(part, folder)


def _check_free(folder: Path, kind: str) -> None:
    shown = printable(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{shown} is a file; give a folder for the {kind}")
    if is_ours(folder):
        marker = json.loads((folder / MARKER).read_bytes())
        if marker.get("kind") != kind:
            raise ValueError(f"{shown} holds other results of jaxml, not a {kind}; give another folder")
    elif others := [path.name for path in folder.iterdir() if not UNFINISHED.fullmatch(path.name)]:
        raise ValueError(
            f"{shown} holds something else, such as {printable(others[0])}; give a new folder or an empty one"
        )
