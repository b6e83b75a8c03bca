"""Find the pictures that are nearest to one picture.

    jaxml search --model runs/mine --images pictures --query bird.jpg
    jaxml search --model runs/mine --images pictures.index --query bird.jpg --count 20

--images is a folder of pictures, or an index of them that `jaxml embed` wrote, which need not be embedded again. Prints
the nearest pictures with the distances of their embeddings to the query's, and writes OUT/nearest.html, which shows
them. The query itself is left out if it is one of the pictures.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from jaxml.commands.options import parse
from jaxml.config.checks import options
from jaxml.files import expand, printable


@options
@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which network, which pictures, and which one to look for."""

    model: str
    """Directory of a run, a folder that `model.save` wrote, or hf://owner/repo[@revision]."""
    images: str
    """Folder of pictures, or of an index of them."""
    query: str
    """A picture, among them or elsewhere."""
    count: Annotated[int, Ge(1)] = 10
    """Number of pictures."""
    boxes: str = ""
    """CSV file with the columns file,left,top,width,height in pixels: crop each picture of the folder to its box."""
    out: str = "nearest"
    """Folder for the page, apart from the pictures."""


def main(words: list[str]) -> None:
    """Search, print the nearest pictures, and write a page that shows them."""
    arguments = parse(Arguments, words, __doc__)
    from jaxml.data.sources import unlabelled
    from jaxml.inference import Index, index_folder, load
    from jaxml.reports import clusters as pages
    from jaxml.reports.output import output_folder

    model = load(arguments.model)
    with output_folder(arguments.out, "nearest", apart={"--images": arguments.images}) as place:
        if (expand(arguments.images, "--images") / index_folder.HEAD).is_file():
            if arguments.boxes:
                raise ValueError(
                    "--boxes belong to a folder of pictures, but --images is an index, which has its embeddings "
                    "already; leave --boxes out"
                )
            found = Index.load(arguments.images, model)
            pictures = unlabelled.Pictures(Path(found.root), tuple(found.names))
        else:
            pictures = unlabelled.find(arguments.images, boxes=arguments.boxes)
            found = Index.of_folder(model, pictures)
            pictures = dataclasses.replace(pictures, names=tuple(found.names))
        query = unlabelled.single(arguments.query, pictures)
        embedding, _, _ = model.embed_readable(query)
        matches = found.search(embedding, arguments.count + 1)
        own = query.root / query.names[0]
        kept = [i for i, name in enumerate(matches.names[0]) if pictures.root / name != own]
        kept = kept[: arguments.count]
        rows, distances = matches.rows[0][kept], matches.distances[0][kept]
        page = place / "nearest.html"
        pages.write_nearest(page, query, pictures, rows, distances, errors=found.left_out)
        for row, distance in zip(rows, distances, strict=True):
            print(f"{distance:8.4f}  {printable(found.names[row])}")
    left_out = f"; {len(found.left_out):,} files left out" if found.left_out else ""
    print(f"{len(found):,} pictures{left_out}: {printable(Path(arguments.out) / 'nearest.html')}")
