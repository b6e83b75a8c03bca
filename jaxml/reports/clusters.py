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
PICTURED = 100  # clusters, the largest, with pictures in the page; the others have contact sheets alone
COLUMNS_OF_TABLE = ["file", "cluster", "distance", "confidence", "runner_up"]
LISTED = 20  # unreadable files on the page
# What a cell begins with that spreadsheets run as a formula; the last four are full-width forms of the first.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
SIDE, GAP, COLUMNS, PER_SHEET = 112, 4, 16, 400  # of contact sheets, in pixels and pictures


def write(out: Path, pictures: Pictures, groups: Groups, *, errors: Mapping[str, str], choice: str) -> None:
    """Write a page, a table and contact sheets of clusters into a new folder.

    They are `clusters.html`, `clusters.csv`, `contact/cluster_NNN.jpg` and, for unreadable files, `skipped.txt`. A
    contact sheet holds all pictures of a cluster in the order of the table, the most central first; another sheet
    follows after 400 pictures. In a browser the page moves pictures to other clusters and saves the corrected table.

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
    table = _table(pictures, groups, members)
    with open(out / "clusters.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS_OF_TABLE, *table])
    _write_skipped(out, errors)
    decoded = _decoded(pictures, np.concatenate(members))
    clusters = []
    for number, rows in enumerate(members):
        images = {int(row): next(decoded) for row in rows}
        names = _write_sheets(sheets, number, list(images.values()))
        clusters.append(_cluster(number, rows, images, pictures.names, groups))
        clusters[-1]["sheets"] = [f"contact/{name}" for name in names]
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
        data={
            "columns": COLUMNS_OF_TABLE,
            "rows": table,
            "sheets": [cluster["sheets"] for cluster in clusters],
            "layout": {"side": SIDE, "gap": GAP, "columns": COLUMNS, "per_sheet": PER_SHEET},
        },
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


def _table(pictures: Pictures, groups: Groups, members: Sequence[np.ndarray]) -> list[list[str]]:
    """The cells of a row for each picture, by cluster; `members` has rows int [n] of each cluster."""
    return [
        [
            _cell(pictures.names[row]),
            str(groups.clusters[row] + 1),
            f"{groups.distance[row]:.6f}",
            f"{groups.confidence[row]:.6f}",
            str(groups.runner_up[row] + 1) if groups.runner_up[row] >= 0 else "",
        ]
        for row in np.concatenate(members)
    ]


def _cell(name: str) -> str:
    """Show the name of a file in a table; an apostrophe goes before what a spreadsheet would run as a formula.

    Source: OWASP, "CSV injection"; the tabs and line ends of which it warns as well are escapes by then.
    """
    shown = printable(name)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def _write_sheets(folder: Path, number: int, images: Sequence[np.ndarray]) -> list[str]:
    """Write the contact sheets of a cluster of images uint8 [SIDE, SIDE, 3]; returns their names."""
    from PIL import Image

    step, names = SIDE + GAP, []
    for start in range(0, len(images), PER_SHEET):
        part = images[start : start + PER_SHEET]
        lines = -(-len(part) // COLUMNS)
        sheet = np.full((lines * step + GAP, min(len(part), COLUMNS) * step + GAP, 3), 255, np.uint8)
        for i, image in enumerate(part):
            top, left = i // COLUMNS * step + GAP, i % COLUMNS * step + GAP
            sheet[top : top + SIDE, left : left + SIDE] = image
        more = f"_{start // PER_SHEET + 1}" if start else ""
        names.append(f"cluster_{number + 1:03d}{more}.jpg")
        Image.fromarray(sheet).save(folder / names[-1], quality=85)
    return names


def _cluster(
    number: int, rows: np.ndarray, images: Mapping[int, np.ndarray], names: Sequence[str], groups: Groups
) -> dict[str, Any]:
    """What the page shows of a cluster with the pictures `rows` int [n], by row uint8 [SIDE, SIDE, 3]."""
    rest = rows[CENTRAL:]
    central = rows[:CENTRAL].tolist()
    doubtful = rest[np.argsort(groups.confidence[rest], kind="stable")][:DOUBTFUL].tolist()
    if number >= PICTURED:
        central, doubtful = [], []
    notes = {
        row: f"{groups.confidence[row]:.2f}, or cluster {groups.runner_up[row] + 1}:" for row in doubtful
    }
    place = {row: i for i, row in enumerate(rows.tolist())}

    def pictures(chosen: list[int]) -> list[tuple[int, page.Picture]]:
        """Each with its place in the cluster."""
        return [(place[row], page.picture(images[row], names[row], notes.get(row, ""))) for row in chosen]

    return {
        "number": number + 1,
        "size": len(rows),
        "confidence": groups.confidence[rows].mean(),
        "central": pictures(central),
        "doubtful": pictures(doubtful),
    }


def _left_out(errors: Mapping[str, str]) -> tuple[int, list[str]]:
    """How many files could not be used, and the first errors."""
    return len(errors), list(errors.values())[:LISTED]
