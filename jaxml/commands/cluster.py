"""Find the classes in a folder of unlabelled pictures with a trained run.

    jaxml cluster --workdir runs/cub_squeezenet --images pictures
    jaxml cluster --workdir runs/cub_squeezenet --images pictures --clusters 100
    jaxml cluster --workdir runs/cub_squeezenet --images pictures --query bird.jpg

The folder may be flat or nested, and files may have any names. Files that are no pictures are listed in
OUT/skipped.txt. Only the run's directory is needed, not its data set. If the run learned from pictures cropped to their
boxes, as runs on birds do, crop these pictures as well or give --boxes.

Writes clusters.html (the most central and the most doubtful pictures of each cluster), clusters.csv and a contact sheet
for each cluster. In a browser the page moves pictures to other clusters and saves the corrected table. With --query
nearest.html is written instead. The results go to a new folder, or to that of an earlier call, whose files are replaced
unless somebody has changed them. Characters of file names that cannot be printed are shown as escapes such as \\n, and
clusters.csv has an apostrophe before names that a spreadsheet would run as a formula.

Without --clusters, K-means runs with numbers of clusters from 1 on, and the number with the highest Bayesian
information criterion is taken (`jaxml.evaluation.grouping.choose`).

The 5,924 birds of CUB-200-2011's classes 101-200 take about a minute on 2 CPU cores with SqueezeNet 1.1 at 128 pixels.
With --boxes and --clusters 100 the clusters are as good as `jaxml evaluate` says of the run, within the deviation over
K-means seeds that it prints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxml.commands.options import parse
from jaxml.config.checks import options
from jaxml.files import printable

if TYPE_CHECKING:
    import numpy as np

    from jaxml.data.sources.unlabelled import Pictures

BOXED = ("cub", "caltech_birds2011", "cars196")
"""Sources that have boxes."""
NEAREST, PRINTED = 60, 10
"""Pictures on the page of a query, and those of them that are printed as well."""


@options
@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which run and which pictures."""

    workdir: str
    """Directory of the run."""
    images: str
    """Folder of pictures."""
    clusters: int | None = None
    """Number of clusters; chosen by the Bayesian information criterion if not given."""
    query: str = ""
    """A picture, in the folder or elsewhere: show the nearest ones of the folder instead of clusters."""
    boxes: str = ""
    """CSV file with the columns file,left,top,width,height in pixels: crop each picture to its box."""
    out: str = ""
    """Folder for the results, apart from the pictures; WORKDIR/clusters by default, WORKDIR/nearest with --query."""


def main(words: list[str]) -> None:
    """Embed the pictures, and write their clusters or the nearest ones."""
    arguments = parse(Arguments, words, __doc__)
    from jaxml.data.sources import unlabelled
    from jaxml.inference import load
    from jaxml.inference.kept import embed_folder
    from jaxml.reports.output import output_folder

    if arguments.query and arguments.clusters is not None:
        raise ValueError("--query shows the nearest pictures and clusters nothing: leave out --clusters")
    kind = "nearest" if arguments.query else "clusters"
    out = Path(arguments.out or Path(arguments.workdir) / kind)
    pictures = unlabelled.find(arguments.images, boxes=arguments.boxes)
    if arguments.clusters is not None and not 1 <= arguments.clusters <= len(pictures):
        raise ValueError(
            f"--clusters is {arguments.clusters}; give 1 to {len(pictures)}, the number of files"
        )
    model = load(arguments.workdir)
    data = model.config.data
    if data.crop_to_box and data.source in BOXED and not arguments.boxes:
        print("the run learned from pictures cropped to their boxes; give --boxes if these are not cropped")
    with output_folder(out, kind, apart={"--images": arguments.images}) as place:
        if arguments.query:
            query = unlabelled.single(arguments.query, pictures)
            asked, _, _ = model.embed_readable(query)
        embeddings, rows, errors = embed_folder(model, pictures)
        pictures = pictures.take(rows)
        left_out = f"; {len(errors):,} files left out, listed in skipped.txt" if errors else ""
        print(f"{len(pictures):,} pictures{left_out}")
        if arguments.query:
            result = _write_nearest(place, query, asked[0], pictures, embeddings, errors)
        else:
            result = _write_clusters(place, arguments.clusters, pictures, embeddings, errors)
    print(f"{result}: {printable(out / f'{kind}.html')}")


def _write_nearest(
    place: Path,
    query: Pictures,
    asked: np.ndarray,
    pictures: Pictures,
    embeddings: np.ndarray,
    errors: Mapping[str, str],
) -> str:
    """Write the page of the pictures that are nearest to a query, embedded as `asked` [D]; returns what was written."""
    from jaxml.evaluation.grouping import nearest
    from jaxml.reports import clusters as pages

    rows, distances = nearest(embeddings, asked, NEAREST + 1)
    others = [query.root / query.names[0] != pictures.root / pictures.names[row] for row in rows]
    rows, distances = rows[others][:NEAREST], distances[others][:NEAREST]
    pages.write_nearest(place / "nearest.html", query, pictures, rows, distances, errors=errors)
    for row, distance in list(zip(rows, distances, strict=True))[:PRINTED]:
        print(f"{distance:8.4f}  {printable(pictures.names[row])}")
    return "page"


def _write_clusters(
    place: Path, number: int | None, pictures: Pictures, embeddings: np.ndarray, errors: Mapping[str, str]
) -> str:
    """Write the page and the table of so many clusters, a number that is chosen if None; returns what was written."""
    from jaxml.evaluation.grouping import choose, group
    from jaxml.reports import clusters as pages

    choice = "The number of clusters was given."
    if number is None:
        scores = choose(embeddings)
        number = max(scores, key=scores.__getitem__)
        choice = (
            f"{number} clusters have the highest Bayesian information criterion of the numbers tried: "
            f"{', '.join(map(str, scores))}."
        )
        print(choice)
    groups = group(embeddings, number)
    pages.write(place, pictures, groups, errors=errors, choice=choice)
    return f"{groups.count} clusters"
