"""Embed pictures with a trained network.

    jaxml embed --model runs/mine --images pictures --out embeddings.npz
    jaxml embed --model runs/mine --images one.jpg two.jpg --out embeddings.npy
    jaxml embed --model hf://owner/name --images pictures --out pictures.index

--images is a folder, flat or nested, or files. --out is the name of the result: with the ending .npz a file with the
arrays `names` [n] and `embeddings` float32 [n, D]; with .npy the embeddings alone, and the names beside it in
OUT.names.txt, one a line; with any other, the folder of an index, in which `jaxml search` finds the pictures that are
nearest to one. Files of a folder that cannot be read are left out and listed.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING

from jaxml.commands.options import parse
from jaxml.config.checks import options
from jaxml.files import expand, printable, replacing, write_atomically

if TYPE_CHECKING:
    from jaxml.inference import Index

LISTED = 20
"""Files that cannot be read of which the reason is printed."""


@options
@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which network, which pictures, and where the embeddings go."""

    model: str
    """Directory of a run, a folder that `model.save` wrote, or hf://owner/repo[@revision]."""
    images: tuple[str, ...]
    """A folder of pictures, or files."""
    out: str
    """A new file that ends with .npz or .npy, or the folder of an index."""
    boxes: str = ""
    """CSV file with the columns file,left,top,width,height in pixels: crop each picture of the folder to its box."""


def main(words: list[str]) -> None:
    """Embed the pictures, and write the embeddings with their names."""
    arguments = parse(Arguments, words, __doc__)
    if not arguments.images:
        raise ValueError("--images names no picture; give a folder or files")
    out = expand(arguments.out, "--out")
    if out.suffix in WRITERS and out.exists():
        raise ValueError(f"--out {printable(out)} exists already; give another name, or move it away")
    from jaxml.data.sources import unlabelled
    from jaxml.inference import index as indices
    from jaxml.inference import load

    model = load(arguments.model)
    if len(arguments.images) == 1 and expand(arguments.images[0], "--images").is_dir():
        index = indices.Index.of_folder(model, unlabelled.find(arguments.images[0], boxes=arguments.boxes))
    elif arguments.boxes:
        raise ValueError("--boxes belong to a folder of pictures; give that as --images")
    else:
        index = indices.Index.of(model, arguments.images)
    WRITERS.get(out.suffix, _write_index)(out, index)
    for why in list(index.left_out.values())[:LISTED]:
        print(f"left out: {why}")
    if len(index.left_out) > LISTED:
        print(f"and {len(index.left_out) - LISTED:,} more")
    print(f"{len(index):,} embeddings of {model.dimensions} numbers: {printable(out)}")


def _write_npz(path: Path, index: Index) -> None:
    import numpy as np

    with replacing(path, "wb") as file:
        np.savez(file, names=np.array(index.names), embeddings=index.embeddings)


def _write_npy(path: Path, index: Index) -> None:
    import numpy as np

    names = "".join(f"{printable(name)}\n" for name in index.names)
    write_atomically(path.with_name(f"{path.name}.names.txt"), names)
    buffer = io.BytesIO()
    np.save(buffer, index.embeddings)
    with replacing(path, "wb") as file:
        file.write(buffer.getvalue())


def _write_index(path: Path, index: Index) -> None:
    index.save(path)


WRITERS = {".npz": _write_npz, ".npy": _write_npy}
"""By the ending of --out."""
