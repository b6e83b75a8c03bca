"""CUB-200-2011, 11,788 birds of 200 species (Wah et al. 2011), from its official folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxml.data.index import Index
from jaxml.files import expand, printable

IMAGES, CLASSES = 11_788, 200
FIRST_HALF, SECOND_HALF = 5_864, 5_924  # images of classes 1-100 and 101-200


def _rows(root: Path, name: str, fields: int) -> list[list[str]]:
    """The rows of one of the official text files, without the number at the beginning of each."""
    try:
        lines = (root / name).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise ValueError(
            f"{printable(root / name)} cannot be read ({error.strerror}): --data.root must be the folder CUB_200_2011 "
            f"of the official archive, with images/, images.txt, image_class_labels.txt, classes.txt and "
            f"bounding_boxes.txt"
        ) from error
    rows = [line.split() for line in lines]
    for i, row in enumerate(rows):
        if len(row) != fields + 1 or row[0] != str(i + 1):
            raise ValueError(
                f"{printable(root / name)}, line {i + 1}: expected number {i + 1} and {fields} value(s), got "
                f"{lines[i]!r}. Unpack the official file again."
            )
    return [row[1:] for row in rows]


def _numbers(root: Path, name: str, fields: int, dtype: type) -> np.ndarray:
    """The rows of a text file of numbers as an array [rows, fields]."""
    rows = _rows(root, name, fields)
    try:
        return np.array(rows, dtype).reshape(-1, fields)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{printable(root / name)}: {error}; not a number. Unpack the official file again."
        ) from error


def load(root: str) -> Index:
    """All 11,788 images of the folder `root`, with their boxes.

    Raises:
        ValueError: a text file is missing or malformed, or the counts (11,788; 5,864 in classes 1-100; 5,924 in classes
            101-200) are not the official ones.
    """
    folder = expand(root, "--data.root")
    names = [row[0] for row in _rows(folder, "images.txt", 1)]
    class_names = tuple(row[0] for row in _rows(folder, "classes.txt", 1))
    labels = _numbers(folder, "image_class_labels.txt", 1, np.int32).reshape(-1) - 1
    boxes = _numbers(folder, "bounding_boxes.txt", 4, np.float32)
    counts = (
        len(names),
        len(labels),
        len(boxes),
        int(np.sum(labels < 100)),
        int(np.sum(labels >= 100)),
        len(class_names),
    )
    if counts != (IMAGES, IMAGES, IMAGES, FIRST_HALF, SECOND_HALF, CLASSES):
        raise ValueError(
            f"{printable(folder)} lists {counts[0]} images, {counts[1]} labels, {counts[2]} boxes, {counts[3]} + "
            f"{counts[4]} images in classes 1-100 + 101-200, {counts[5]} classes; CUB-200-2011 has {IMAGES} of each, "
            f"{FIRST_HALF} + {SECOND_HALF}, {CLASSES}. Unpack the official archive again."
        )
    return Index([str(folder / "images" / name) for name in names], labels, boxes, class_names, tuple(names))
