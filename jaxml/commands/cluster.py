"""Find the classes in a folder of unlabelled pictures with a trained run.

    jaxml cluster --model runs/cub_squeezenet --images pictures
    jaxml cluster --model runs/cub_squeezenet --images pictures --clusters 100

The folder may be flat or nested, and files may have any names. Files that are no pictures are listed in
OUT/skipped.txt. Only the run's directory is needed, not its data set. If the run learned from pictures cropped to their
boxes, as runs on birds do, crop these pictures as well or give --boxes.

Writes clusters.html (the most central and the most doubtful pictures of each cluster), clusters.csv and a contact sheet
for each cluster. In a browser the page moves pictures to other clusters and saves the corrected table. The results go
to a new folder, or to that of an earlier call, whose files are replaced unless somebody has changed them. Characters of
file names that cannot be printed are shown as escapes such as \\n, and clusters.csv has an apostrophe before names that
a spreadsheet would run as a formula.

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
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from jaxml.commands.options import also, parse
from jaxml.config.checks import options
from jaxml.files import printable

if TYPE_CHECKING:
    import numpy as np

    from jaxml.data.sources.unlabelled import Pictures


@options
@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which run and which pictures."""

    model: Annotated[str, also("--workdir")]
    """Directory of a run, a folder that `model.save` wrote, or hf://owner/repo[@revision]."""
    images: str
    """Folder of pictures."""
    clusters: Annotated[int, Ge(0)] = 0
    """Number of clusters; 0 chooses it by the Bayesian information criterion."""
    boxes: str = ""
    """CSV file with the columns file,left,top,width,height in pixels: crop each picture to its box."""
    out: str = ""
    """Folder for the results, apart from the pictures; the folder clusters in --model if empty."""


def main(words: list[str]) -> None:
    """Embed the pictures, and write their clusters."""
    arguments = parse(Arguments, words, __doc__)
    from jaxml.data.sources import unlabelled
    from jaxml.data.sources.known import KNOWN
    from jaxml.inference import load
    from jaxml.inference.kept import embed_folder
    from jaxml.reports.output import output_folder

    out = Path(arguments.out or Path(arguments.model) / "clusters")
    pictures = unlabelled.find(arguments.images, boxes=arguments.boxes)
    if arguments.clusters > len(pictures):
        raise ValueError(
            f"--clusters is {arguments.clusters}; give at most {len(pictures)}, the number of files"
        )
    model = load(arguments.model)
    data = model.config.data
    boxed = data.crop_to_box and data.source in KNOWN and KNOWN[data.source].boxes
    if boxed and not arguments.boxes:
        print("the run learned from pictures cropped to their boxes; give --boxes if these are not cropped")
    with output_folder(out, "clusters", apart={"--images": arguments.images}) as place:
        embeddings, rows, errors = embed_folder(model, pictures)
        pictures = pictures.take(rows)
        left_out = f"; {len(errors):,} files left out, listed in skipped.txt" if errors else ""
        print(f"{len(pictures):,} pictures{left_out}")
        count = _write(place, arguments.clusters, pictures, embeddings, errors)
    print(f"{count} clusters: {printable(out / 'clusters.html')}")


def _write(
    place: Path, number: int, pictures: Pictures, embeddings: np.ndarray, errors: Mapping[str, str]
) -> int:
    """Write the page and the table of so many clusters, a number that is chosen if 0; returns how many are filled."""
    from jaxml.evaluation.grouping import choose, group
    from jaxml.reports import clusters as pages

    choice = "The number of clusters was given."
    if not number:
        scores = choose(embeddings)
        number = max(scores, key=scores.__getitem__)
        choice = (
            f"{number} clusters have the highest Bayesian information criterion of the numbers tried: "
            f"{', '.join(map(str, scores))}."
        )
        print(choice)
    groups = group(embeddings, number)
    pages.write(place, pictures, groups, errors=errors, choice=choice)
    return groups.count
