"""Anyone's own pictures: one folder per class."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np

from jaxml.data.index import Index

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key under which class 2 comes before class 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def load(root: str) -> Index:
    """Every JPEG, PNG and BMP in the folders of `root`; folders are classes, in natural order.

    Files with other endings are left out, with a warning that counts them. Raises ValueError if `root` is no
    folder, holds no folders, or one of them no images.
    """
    top = Path(root).expanduser()
    if not root or not top.is_dir():
        raise ValueError(
            f"--data.root {root!r} is not a folder; give one that holds one folder of images per class"
        )
    classes = sorted((p for p in top.iterdir() if p.is_dir() and not p.name.startswith(".")), key=_natural)
    if not classes:
        raise ValueError(f"{top} holds no folders; put the images of each class into a folder of its own")
    items, labels, others = [], [], []
    for label, folder in enumerate(classes):
        files = sorted(
            (p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")), key=_natural
        )
        images = [p for p in files if p.suffix.lower() in SUFFIXES]
        others += [p for p in files if p.suffix.lower() not in SUFFIXES]
        if not images:
            raise ValueError(
                f"{folder} holds no images ({', '.join(SUFFIXES)}); add some or remove the folder"
            )
        items += images
        labels += [label] * len(images)
    if others:
        warnings.warn(
            f"{len(others)} files are not {', '.join(SUFFIXES)} and are left out, such as {others[0]}",
            stacklevel=2,
        )
    return Index(
        items=[str(p) for p in items],
        labels=np.array(labels, np.int32),
        boxes=None,
        class_names=tuple(p.name for p in classes),
        names=tuple(p.relative_to(top).as_posix() for p in items),
    )
