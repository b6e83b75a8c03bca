"""A data set of one's own: a folder of pictures per class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from jaxml.data.formats import SUFFIXES
from jaxml.data.index import Index
from jaxml.data.natural import natural
from jaxml.files import expand, printable


def _sorted(paths: Iterable[Path]) -> list[Path]:
    """Sort naturally; names that differ only in leading zeros go by their text, not by the order of the disk."""
    return sorted(paths, key=lambda path: ([natural(part) for part in path.parts], path.parts))


def load(root: str) -> Index:
    """Every picture in the folders of `root`, each of which is a class with all its subfolders; in natural order.

    Pictures are known by the endings of their names (`formats.SUFFIXES`). Hidden files and folders are left out. Files
    with other endings are left out, with a warning that counts them. Another warning counts folders whose names are the
    same number, such as 1 and 01. Broken links, pipes and the like are kept as images, so that they are reported as
    damaged and not left out unnoticed.

    Raises:
        ValueError: `root` is not a folder or holds no folders, or one of them holds no images or cannot be read.
    """
    top = expand(root, "--data.root")
    if not root or not top.is_dir():
        raise ValueError(
            f"--data.root {root!r} is not a folder; give one that holds one folder of images per class"
        )
    classes = _sorted(p for p in top.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise ValueError(
            f"{printable(top)} holds no folders; put the images of each class into a folder of its own"
        )
    _warn_of_same_numbers(classes)
    items, labels, others = [], [], []
    for label, folder in enumerate(classes):
        files = _sorted(_files(folder))
        images = [p for p in files if p.suffix.lower() in SUFFIXES]
        others += [p for p in files if p.suffix.lower() not in SUFFIXES]
        if not images:
            raise ValueError(
                f"{printable(folder)} holds no images ({', '.join(SUFFIXES)}); add some or remove the folder"
            )
        items += images
        labels += [label] * len(images)
    if others:
        warnings.warn(
            f"{len(others)} files are not {', '.join(SUFFIXES)} and are left out, such as {printable(others[0])}",
            stacklevel=2,
        )
    return Index(
        items=[str(p) for p in items],
        labels=np.array(labels, np.int32),
        boxes=None,
        class_names=tuple(p.name for p in classes),
        names=tuple(p.relative_to(top).as_posix() for p in items),
    )


def _files(folder: Path) -> Iterator[Path]:
    """Everything in a folder and its subfolders that is no folder and not hidden."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"the folder {printable(error.filename)} cannot be read ({error.strerror})")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place) / name for name in names if not name.startswith("."))


def _warn_of_same_numbers(classes: list[Path]) -> None:
    alike = [(a.name, b.name) for a, b in pairwise(classes) if natural(a.name) == natural(b.name)]
    if alike:
        warnings.warn(
            f"{len(alike)} class folder(s) have the name of another but for leading zeros, such as "
            f"{' and '.join(map(printable, alike[0]))}: if they are the same class, join them",
            stacklevel=3,
        )
