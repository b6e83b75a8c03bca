"""What clustering found, to look at: a page, contact sheets and a table of clusters, or a page of nearest pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

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
    """Write `clusters.html`, `clusters.csv`, `contact/cluster_NNN.jpg` and, for unreadable files, `skipped.txt` into a
    new folder.

    pictures: N that could be read; groups of them; errors: what is wrong with each other file; choice: a sentence on
    the number of clusters. Contact sheets hold all pictures of a cluster in the order of the table, the most central
    first; a second sheet follows after 400.
    """
    sheets = out / "contact"
    sheets.mkdir(parents=True)
    members = [groups.members(number) for number in range(groups.count)]
    _write_table(out / "clusters.csv", pictures, groups, members)
    _write_skipped(out, errors)
    decoded = _decoded(pictures, np.concatenate(members))
    blocks = ""
    for number, rows in enumerate(members):
        images = {int(row): next(decoded) for row in rows}
        _write_sheets(sheets, number, list(images.values()))
        blocks += _block(number, rows, images, pictures.names, groups)
    sizes = np.array([len(rows) for rows in members])
    tiles = [
        (f"{len(pictures):,}", "pictures"),
        (f"{groups.count:,}", "clusters"),
        (f"{np.median(sizes):,.0f}", f"pictures in the median cluster ({sizes.min():,} to {sizes.max():,})"),
        (f"{len(errors):,}", "files left out"),
    ]
    note = (
        "The largest cluster comes first. Central pictures are nearest to the mean of their cluster. Doubtful ones are "
        "nearly as near to the mean of another: confidence is (b - a) / max(a, b), with a and b the distances to the "
        "own and to the other mean, 1 at the own mean and 0 halfway. clusters.csv lists all, contact/ shows them."
    )
    parts = [
        f"<p>{page.escape(choice)}</p>",
        page.tiles(tiles),
        page.section("Clusters", note, f'<div class="rows">{blocks}</div>'),
    ]
    (out / "clusters.html").write_text(
        page.document(f"{groups.count:,} clusters of {pictures.root.name}", *parts, _left_out(errors)),
        encoding="utf-8",
    )


def write_nearest(
    path: Path,
    query: Pictures,
    pictures: Pictures,
    rows: np.ndarray,
    distances: np.ndarray,
    *,
    errors: Mapping[str, str],
) -> None:
    """Write a page with one query and its nearest pictures: rows int [n], distances [n] to them.

    Beside it goes `skipped.txt` for unreadable files.
    """
    _write_skipped(path.parent, errors)
    found = zip(rows, distances, _decoded(pictures, rows), strict=True)
    strip = "".join(page.picture(image, pictures.names[row], f"{d:.3f}") for row, d, image in found)
    name = query.names[0]
    asked = page.picture(next(_decoded(query, np.array([0]))), name, "query:", "query")
    row = f'<div class="row">{asked}<div class="strip">{strip}</div></div>'
    note = f"The nearest of {len(pictures):,} pictures in order, with the distances of their embeddings."
    section = page.section("Nearest pictures", note, row)
    path.write_text(page.document(f"Pictures like {name}", section, _left_out(errors)), encoding="utf-8")


def _write_skipped(out: Path, errors: Mapping[str, str]) -> None:
    """List unreadable files in `skipped.txt`, one a line with what is wrong; no file if there are none."""
    if errors:
        lines = "".join(f"{printable(name)}\t{printable(why)}\n" for name, why in errors.items())
        (out / "skipped.txt").write_text(lines, encoding="utf-8")


def _decoded(pictures: Pictures, rows: np.ndarray) -> Iterator[np.ndarray]:
    for image in pictures.take(rows).decode(SIDE):
        if isinstance(image, ImageError):  # it was sound when it was embedded
            raise image
        yield image


def _write_table(path: Path, pictures: Pictures, groups: Groups, members: Sequence[np.ndarray]) -> None:
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


def _block(
    number: int, rows: np.ndarray, images: Mapping[int, np.ndarray], names: Sequence[str], groups: Groups
) -> str:
    """One cluster on the page."""
    rest = rows[CENTRAL:]
    doubtful = rest[np.argsort(groups.confidence[rest], kind="stable")][:DOUBTFUL]
    central = "".join(page.picture(images[row], names[row]) for row in rows[:CENTRAL].tolist())
    strips = f'<h3>Central</h3><div class="strip">{central}</div>'
    if len(doubtful):
        cells = "".join(
            page.picture(
                images[row],
                names[row],
                f"{groups.confidence[row]:.2f}, or cluster {groups.runner_up[row] + 1}:",
            )
            for row in doubtful.tolist()
        )
        strips += f'<h3 style="margin-top:.7rem">Doubtful</h3><div class="strip">{cells}</div>'
    head = (
        f'<div><h3>Cluster {number + 1}</h3><p class="note">{len(rows):,} picture{"s" * (len(rows) > 1)}<br>'
        f"mean confidence {groups.confidence[rows].mean():.2f}</p></div>"
    )
    return f'<div class="row" id="cluster-{number + 1}">{head}<div>{strips}</div></div>\n'


def _left_out(errors: Mapping[str, str]) -> str:
    if not errors:
        return ""
    lines = "".join(f"<li>{page.escape(why)}</li>" for why in list(errors.values())[:LISTED])
    more = f" The first {LISTED}:" if len(errors) > LISTED else ""
    note = f"{len(errors):,} files could not be used; skipped.txt lists them.{more}"
    return page.section(
        "Files left out", note, f'<ul class="note" style="overflow-wrap:anywhere">{lines}</ul>'
    )
