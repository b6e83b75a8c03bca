"""Pictures of unknown classes from any folder, flat or nested; those that cannot be read do not stop the others."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxml.data.decode import corners, decode, parallel
from jaxml.data.index import LARGEST, ImageError
from jaxml.files import expand, printable

BOX = ("left", "top", "width", "height")


@dataclass(frozen=True)
class Pictures:
    """N picture files, not yet decoded."""

    root: Path
    names: tuple[str, ...]
    """Paths within `root`."""
    corners: dict[str, np.ndarray] | None = None
    """Crops by name, int32 [4]: left, top, right, bottom in pixels; None for whole pictures."""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: np.ndarray) -> Pictures:
        """The pictures `rows` int [n] alone."""
        return replace(self, names=tuple(self.names[i] for i in rows))

    def decode(self, size: int) -> Iterator[np.ndarray | ImageError]:
        """Yield each picture in order, uint8 [size, size, 3], or the error of one that cannot be read."""

        def one(i: int) -> np.ndarray | ImageError:
            name = self.names[i]
            if self.corners is not None and name not in self.corners:
                return ImageError(f"image {printable(name)} has no box; add one to the file of boxes")
            corner = None if self.corners is None else self.corners[name]
            try:
                return decode(str(self.root / name), name, corner, size)
            except ImageError as error:
                return error

        return parallel(one, len(self), "decoding")


def find(root: str | Path, *, boxes: str | Path = "") -> Pictures:
    """Every file in `root` and its subfolders, sorted; hidden files and folders are left out.

    Args:
        root: a folder.
        boxes: CSV file with the columns file (path within `root`), left, top, width and height in pixels, to which
            pictures are cropped; empty for whole pictures.

    Raises:
        ValueError: `root` is not a folder or holds no files, a folder in it cannot be read, or the file of boxes is
            malformed.
    """
    top = expand(root, "--images")
    if not top.is_dir():
        raise ValueError(f"{printable(root)} is not a folder of pictures")
    top = top.resolve()
    names = []
    for place, folders, files in os.walk(top, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        # Broken links, pipes and the like are kept, and reported as unreadable later like any other damage.
        names += [
            (Path(place) / name).relative_to(top).as_posix() for name in files if not name.startswith(".")
        ]
    if not names:
        raise ValueError(f"{printable(root)} holds no pictures")
    return Pictures(top, tuple(sorted(names)), _boxes(boxes) if boxes else None)


def _refuse(error: OSError) -> None:
    """Stop at a folder that cannot be read, which os.walk would leave out with all its pictures."""
    raise ValueError(f"--images: the folder {printable(error.filename)} cannot be read ({error.strerror})")


def single(path: str | Path, among: Pictures) -> Pictures:
    """One picture: cropped to its box if it is one of `among`, else whole."""
    path = expand(path, "--query")
    # The name is not resolved: a link among the pictures is one of them, wherever it leads.
    file = path.parent.resolve() / path.name
    if among.root in file.parents:
        return Pictures(among.root, (file.relative_to(among.root).as_posix(),), among.corners)
    return Pictures(file.parent, (file.name,))


def _boxes(path: str | Path) -> dict[str, np.ndarray]:
    path = expand(path, "--boxes")
    if path.is_dir():
        raise ValueError(
            f"--boxes {printable(path)} is a folder; give a CSV file with the columns file,{','.join(BOX)}"
        )
    return parse_boxes(path.read_bytes(), path)


def parse_boxes(data: bytes, path: str | Path) -> dict[str, np.ndarray]:
    """Parse a CSV file of boxes that was read from `path`: corners int32 [4] by file.

    Raises:
        ValueError: a line is malformed; the message names it.
    """
    # Excel begins with a byte order mark, and names of files need not be UTF-8.
    lines = io.StringIO(data.decode("utf-8-sig", "surrogateescape"), newline="")
    rows = csv.DictReader(lines)
    try:
        return _corners(rows)
    except (csv.Error, ValueError) as error:
        line = max(rows.reader.line_num, 1)
        raise ValueError(f"{printable(path)}, line {line}: {printable(error)}") from None


def _corners(rows: csv.DictReader[str]) -> dict[str, np.ndarray]:
    boxes: dict[str, np.ndarray] = {}
    if not {"file", *BOX} <= set(rows.fieldnames or []):
        raise ValueError(f"a file of boxes begins with the line file,{','.join(BOX)}")
    for row in rows:
        try:
            box = np.array([[float(row[name]) for name in BOX]])
        except (TypeError, ValueError):
            box = np.full((1, 4), np.nan)
        if not (np.abs(box) < LARGEST).all() or (box[:, 2:] <= 0).any():
            raise ValueError(f"{', '.join(BOX)} must be numbers of pixels, the last two above 0")
        if not row["file"] or row["file"] in boxes:
            raise ValueError(
                f"a second box of {row['file']}" if row["file"] else "the name of the file is missing"
            )
        boxes[row["file"]] = corners(box)[0]
    return boxes
