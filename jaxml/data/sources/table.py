"""A data set that a table lists: one row for each image, with its path, its class, and what else is known of it."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter

import numpy as np

from jaxml.arguments import shown
from jaxml.data import decode
from jaxml.data.index import LARGEST, ImageError, Index, Retrieval
from jaxml.data.sources.numbering import numbered
from jaxml.data.sources.table_files import FLAG, LABEL, NUMBER, TEXT, Table, read
from jaxml.files import printable

CORNERS = ("x_1", "y_1", "x_2", "y_2")
BOX = ("left", "top", "width", "height")
COLUMNS = {
    "path": TEXT,
    "label": LABEL,
    "split": TEXT,
    **dict.fromkeys((*CORNERS, *BOX), NUMBER),
    "is_query": FLAG,
    "is_gallery": FLAG,
    "category": LABEL,
    "sequence": LABEL,
}
"""The columns that are read, and what they hold. Their names are those of OpenMetricLearning, with `BOX` beside."""
PARTS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
"""What the column split may say, and what it means."""
FLAGS = {"true": True, "1": True, "false": False, "0": False, "": False}


def load(root: str) -> Index:
    """The images that the table in the file `root` lists, in the order of its rows.

    Paths are relative to the folder of the table. Classes are in natural order; where the table has a column split,
    those of train come first, then those of val, then those of test. Boxes that reach beyond the picture are cut at its
    edge, with a warning.

    Raises:
        ValueError: the table cannot be read, lacks a column or a value, or has one that cannot be; names row and
            column.
    """
    table = read(root, COLUMNS)
    for column in ("path", "label"):
        if column not in table.cells:
            raise ValueError(
                f"{printable(table.path)}, row 1: there is no column {column}; a table needs the columns path and label"
            )
    paths, classes = _filled(table, "path"), _filled(table, "label")
    for i, name in enumerate(classes):
        if name != name.strip():
            raise table.error(i, "label", f"{shown(name)} begins or ends with a space; remove it")
    parts = _parts(table)
    places = [table.place(i, "split" if parts else "label") for i in range(len(classes))]
    labels, class_names, split = numbered(classes, parts, places, f"{printable(table.path)}, column split")
    boxes = _boxes(table)
    _check_duplicates(table, boxes)
    if boxes is not None:
        _check_within(table, boxes)
    return Index(
        items=[str(table.path.parent / path) for path in paths],
        labels=labels,
        boxes=boxes,
        class_names=class_names,
        names=_names(paths, boxes),
        split=split,
        retrieval=_retrieval(table, parts),
        places=tuple(table.place(i, "path") for i in range(len(paths))),
    )


def _filled(table: Table, column: str) -> list[str]:
    """The cells of a column, none of which may be empty."""
    cells = table.cells[column]
    if "" in cells:
        raise table.error(cells.index(""), column, "the cell is empty; fill it, or remove the row")
    return cells


def _parts(table: Table) -> list[str]:
    """Which part each row belongs to; empty without a column split."""
    if "split" not in table.cells:
        return []
    for i, cell in enumerate(_filled(table, "split")):
        if cell not in PARTS:
            raise table.error(i, "split", f"{shown(cell)} is no part; write {', '.join(PARTS)}")
    return [PARTS[cell] for cell in table.cells["split"]]


def _boxes(table: Table) -> np.ndarray | None:
    """Boxes float32 [R, 4] as left, top, width, height; None without columns for them."""
    # Tables often have columns width and height of the whole picture, which alone are no boxes.
    named = [columns for columns in (CORNERS, BOX) if any(column in table.cells for column in columns[:2])]
    if not named:
        return None
    if len(named) > 1:
        raise ValueError(
            f"{printable(table.path)}, row 1: there are boxes by {', '.join(CORNERS)} and by {', '.join(BOX)}; remove "
            f"the columns of one kind"
        )
    (columns,) = named
    if missing := [column for column in columns if column not in table.cells]:
        raise ValueError(
            f"{printable(table.path)}, row 1: there is no column {missing[0]}; boxes need {', '.join(columns)}"
        )
    rows = range(len(table.rows))
    boxes = np.array([[_pixels(table, i, column) for column in columns] for i in rows])
    if columns == CORNERS:
        boxes[:, 2:] -= boxes[:, :2]
    if len(small := np.argwhere(boxes[:, 2:] < 1)):
        i, axis = small[0].tolist()
        raise table.error(
            i,
            columns[2 + axis],
            f"the box is {boxes[i, 2 + axis]:g} pixels {('wide', 'high')[axis]}; it must be at least 1, in pixels and "
            f"not in shares of the picture",
        )
    return boxes.astype(np.float32)


def _pixels(table: Table, i: int, column: str) -> float:
    cell = table.cells[column][i]
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) < LARGEST:
        found = f"{shown(cell)} is no number of pixels" if cell else "the cell is empty"
        raise table.error(i, column, f"{found}; give every row a box, of a whole picture one of its size")
    return value


def _check_duplicates(table: Table, boxes: np.ndarray | None) -> None:
    """ValueError if two rows are of the same file and box."""
    first: dict[tuple[str, bytes], int] = {}
    for i, path in enumerate(table.cells["path"]):
        other = first.setdefault((os.path.normpath(path), b"" if boxes is None else boxes[i].tobytes()), i)
        if other != i:
            raise table.error(
                i,
                "path",
                f"{printable(path)} is in row {table.rows[other]} already{'' if boxes is None else ' with this box'}; "
                f"remove one of the rows",
            )


def _check_within(table: Table, boxes: np.ndarray) -> None:
    """ValueError if a box lies outside its picture; a warning if boxes reach beyond theirs."""
    paths = list(dict.fromkeys(table.cells["path"]))

    def size(i: int) -> tuple[int, int] | None:
        try:
            return decode.size(decode.read(str(table.path.parent / paths[i]), paths[i]), paths[i])
        except ImageError:
            return None  # `manifest.check` reports what is wrong with the image

    sizes = dict(zip(paths, decode.parallel(size, len(paths), "checking boxes"), strict=True))
    beyond = []
    for i, (path, box) in enumerate(zip(table.cells["path"], boxes.tolist(), strict=True)):
        extent = sizes[path] or ()
        for axis, edge in enumerate(extent):
            near, far = box[axis], box[axis] + box[axis + 2]
            if near >= edge or far <= 0:
                raise table.error(
                    i,
                    (CORNERS if CORNERS[0] in table.cells else BOX)[axis],
                    f"the box lies outside the picture, which is {' x '.join(map(str, extent))} pixels; correct it",
                )
            if near < -1 or far > edge + 1:
                beyond.append(i)
    if beyond:
        warnings.warn(
            f"{len(set(beyond))} box(es) reach beyond their pictures and are cut at the edge, such as that of "
            f"{printable(table.path.name)}, row {table.rows[beyond[0]]}",
            stacklevel=3,
        )


def _names(paths: list[str], boxes: np.ndarray | None) -> tuple[str, ...]:
    """A name for each row: its path, with its box if other rows have the same file."""
    count = Counter(map(os.path.normpath, paths))
    return tuple(
        path if boxes is None or count[os.path.normpath(path)] == 1 else f"{path} {_digits(boxes[i])}"
        for i, path in enumerate(paths)
    )


def _digits(box: np.ndarray) -> str:
    """A box with all digits of its numbers, so that different boxes look different."""
    return f"[{', '.join(f'{value:.9g}' for value in box.tolist())}]"


def _retrieval(table: Table, parts: list[str]) -> Retrieval:
    """Queries, gallery, categories and sequences, as far as there are columns for them."""
    query, gallery = _flags(table, "is_query", parts), _flags(table, "is_gallery", parts)
    if (query is None) != (gallery is None):
        missing = "is_query" if query is None else "is_gallery"
        raise ValueError(
            f"{printable(table.path)}, row 1: there is no column {missing}; is_query and is_gallery need each other"
        )
    if query is not None and gallery is not None:
        classes = table.cells["label"]
        found = {classes[i] for i in np.flatnonzero(gallery)}
        for i in np.flatnonzero(query).tolist():
            if classes[i] not in found:
                raise table.error(
                    i,
                    "is_query",
                    f"class {printable(classes[i])} has no row with is_gallery, so that this query cannot be found; "
                    f"mark some",
                )
    return Retrieval(
        query, gallery, tuple(table.cells.get("category", ())), tuple(table.cells.get("sequence", ()))
    )


def _flags(table: Table, column: str, parts: list[str]) -> np.ndarray | None:
    """A column of true and false as bool [R]; None without it."""
    if column not in table.cells:
        return None
    for i, cell in enumerate(table.cells[column]):
        if cell.lower() not in FLAGS:
            raise table.error(i, column, f"{shown(cell)} is neither true nor false; write one of them")
        if parts and parts[i] == "train" and FLAGS[cell.lower()]:
            raise table.error(i, column, "the row is of the split train, which is not searched; write false")
    return np.array([FLAGS[cell.lower()] for cell in table.cells[column]])
