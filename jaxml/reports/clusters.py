"""Pages of clustered pictures: a page, contact sheets and a table of all clusters, or a page of nearest pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxml.data.index import ImageError
from jaxml.data.sources.unlabelled import Pictures
from jaxml.evaluation.grouping import Groups
from jaxml.files import printable
from jaxml.reports import page

CENTRAL, DOUBTFUL = 10, 5  # pictures of each cluster on the page
LISTED = 20  # unreadable files on the page
# What a cell begins with that spreadsheets run as a formula; the last four are full-width forms of the first.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
SIDE, GAP, COLUMNS, PER_SHEET = 112, 4, 16, 400  # of contact sheets, in pixels and pictures


def write(out: Path, pictures: Pictures, groups: Groups, *, errors: Mapping[str, str], choice: str) -> None:
    """Write a page, a table and contact sheets of clusters into a new folder.

    They are `clusters.html`, `clusters.csv`, `contact/cluster_NNN.jpg` and, for unreadable files, `skipped.txt`. A
    contact sheet holds all pictures of a cluster in the order of the table, the most central first; another sheet
    follows after 400 pictures.

    Args:
        out: the folder.
        pictures: N pictures that could be read.
        groups: their clusters.
        errors: what is wrong with each of the other files, by name.
        choice: a sentence on how the number of clusters was chosen.
    """
    sheets = out / "contact"
    sheets.mkdir(parents=True)
    members = [groups.members(number) for number in range(groups.count)]
    _write_table(out / "clusters.csv", pictures, groups, members)
    _write_skipped(out, errors)
    decoded = _decoded(pictures, np.concatenate(members))
    clusters = []
    for number, rows in enumerate(members):
        images = {int(row): next(decoded) for row in rows}
        _write_sheets(sheets, number, list(images.values()))
        clusters.append(_cluster(number, rows, images, pictures.names, groups))
    sizes = np.array([len(rows) for rows in members])
    numbers = [
        (f"{len(pictures):,}", "pictures"),
        (f"{groups.count:,}", "clusters"),
        (f"{np.median(sizes):,.0f}", f"pictures in the median cluster ({sizes.min():,} to {sizes.max():,})"),
        (f"{len(errors):,}", "files left out"),
    ]
    text = page.render(
        "clusters.html",
        title=f"{groups.count:,} clusters of {pictures.root.name}",
        choice=choice,
        numbers=numbers,
        clusters=clusters,
        left_out_files=_left_out(errors),
    )
    (out / "clusters.html").write_text(text, encoding="utf-8")


def write_nearest(
    path: Path,
    query: Pictures,
    pictures: Pictures,
    rows: np.ndarray,
    distances: np.ndarray,
    *,
    errors: Mapping[str, str],
) -> None:
    """Write a page with one query and its nearest pictures, and `skipped.txt` for unreadable files beside it.

    Args:
        path: an HTML file in a new folder.
        query: one picture.
        pictures: N pictures.
        rows: int [n], the nearest of them in order.
        distances: float [n], of their embeddings to that of the query.
        errors: what is wrong with each file that could not be read, by name.
    """
    _write_skipped(path.parent, errors)
    nearest = zip(rows, distances, _decoded(pictures, rows), strict=True)
    name = query.names[0]
    text = page.render(
        "nearest.html",
        title=f"Pictures like {name}",
        count=len(pictures),
        query=page.picture(next(_decoded(query, np.array([0]))), name, "query:", "query"),
        nearest=[page.picture(image, pictures.names[row], f"{d:.3f}") for row, d, image in nearest],
        left_out_files=_left_out(errors),
    )
    path.write_text(text, encoding="utf-8")


def _write_skipped(out: Path, errors: Mapping[str, str]) -> None:
    """List unreadable files in `skipped.txt`, one a line with its error; if there are none, write no file."""
    if errors:
        lines = "".join(f"{printable(name)}\t{printable(why)}\n" for name, why in errors.items())
        (out / "skipped.txt").write_text(lines, encoding="utf-8")


def _decoded(pictures: Pictures, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pictures `rows` int [n] in order, uint8 [SIDE, SIDE, 3]."""
    for image in pictures.take(rows).decode(SIDE):
        if isinstance(image, ImageError):  # it could be read when it was embedded
            raise image
        yield image


def _write_table(path: Path, pictures: Pictures, groups: Groups, members: Sequence[np.ndarray]) -> None:
    """Write a row for each picture, by cluster; `members` has rows int [n] of each cluster."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "cluster", "distance", "confidence", "runner_up"])
        for row in np.concatenate(members):
            other = int(groups.runner_up[row])
            numbers = [
                f"{groups.distance[row]:.6f}",
                f"{groups.confidence[row]:.6f}",
                other + 1 if other >= 0 else "",
            ]
            writer.writerow([_cell(pictures.names[row]), groups.clusters[row] + 1, *numbers])


def _cell(name: str) -> str:
    """Show the name of a file in a table; an apostrophe goes before what a spreadsheet would run as a formula.

    Source: OWASP, "CSV injection"; the tabs and line ends of which it warns as well are escapes by then.
    """
    shown = printable(name)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def _write_sheets(folder: Path, number: int, images: Sequence[np.ndarray]) -> None:
    """Write the contact sheets of a cluster of images uint8 [SIDE, SIDE, 3]."""
    from PIL import Image

    step = SIDE + GAP
    for start in range(0, len(images), PER_SHEET):
        part = images[start : start + PER_SHEET]
        lines = -(-len(part) // COLUMNS)
        sheet = np.full((lines * step + GAP, min(len(part), COLUMNS) * step + GAP, 3), 255, np.uint8)
        for i, image in enumerate(part):
            top, left = i // COLUMNS * step + GAP, i % COLUMNS * step + GAP
            sheet[top : top + SIDE, left : left + SIDE] = image
        more = f"_{start // PER_SHEET + 1}" if start else ""
        Image.fromarray(sheet).save(folder / f"cluster_{number + 1:03d}{more}.jpg", quality=85)


def _cluster(
    number: int, rows: np.ndarray, images: Mapping[int, np.ndarray], names: Sequence[str], groups: Groups
) -> dict[str, Any]:
    """What the page shows of a cluster with the pictures `rows` int [n], by row uint8 [SIDE, SIDE, 3]."""
    rest = rows[CENTRAL:]
    doubtful = rest[np.argsort(groups.confidence[rest], kind="stable")][:DOUBTFUL]
    notes = {
        int(row): f"{groups.confidence[row]:.2f}, or cluster {groups.runner_up[row] + 1}:" for row in doubtful
    }
    return {
        "number": number + 1,
        "size": len(rows),
        "confidence": groups.confidence[rows].mean(),
        "central": [page.picture(images[row], names[row]) for row in rows[:CENTRAL].tolist()],
        "doubtful": [page.picture(images[row], names[row], note) for row, note in notes.items()],
    }


def _left_out(errors: Mapping[str, str]) -> tuple[int, list[str]]:
    """How many files could not be used, and the first errors."""
    return len(errors), list(errors.values())[:LISTED]
