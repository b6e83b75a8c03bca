"""Data sets whose text files list the images: mostly a header, then a line of fields between spaces for each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxml.arguments import shown
from jaxml.data.index import Index, Retrieval
from jaxml.data.sources.numbering import numbered
from jaxml.files import printable

AGAIN = "Unpack the official archive again."


def lines(
    path: Path, columns: tuple[str, ...], remedy: str, above: int = 0, header: bool = True
) -> list[tuple[str, list[str]]]:
    """Where each image is listed, for errors, and its fields, one for each of the columns.

    Args:
        path: the file.
        columns: what its header names, or would name.
        remedy: what to do if the file is not there.
        above: lines before the header.
        header: whether there is one.

    Raises:
        ValueError: the file cannot be read, or a line has other fields.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise ValueError(f"{printable(path)} cannot be read ({error.strerror}): {remedy}") from error
    names = text[above].split() if len(text) > above else []
    if header and names != list(columns):
        raise ValueError(
            f"{printable(path)}, line {above + 1}: expected the header {' '.join(columns)}, got "
            f"{shown(' '.join(names))}. {AGAIN}"
        )
    found = []
    above += header
    for number, line in enumerate(text[above:], above + 1):
        place, fields = f"{printable(path.name)}, line {number}", line.split()
        if len(fields) != len(columns):
            raise ValueError(f"{place}: expected {' '.join(columns)}, got {shown(line)}. {AGAIN}")
        found.append((place, fields))
    return found


@dataclass(frozen=True)
class Listed:
    """One image of an official list."""

    place: str
    """Where it is listed, for errors."""
    path: str
    """Where it is below the folder of the images."""
    name: str
    """Of its class."""
    group: str
    """What the list calls its part: train, test, query or gallery."""

    @property
    def part(self) -> str:
        """The part of the split: queries and gallery are the two sides of test."""
        return "train" if self.group == "train" else "test"


def index(
    folder: Path, images: Sequence[Listed], official: Mapping[str, int], retrieval: Retrieval, below: str = ""
) -> Index:
    """The index of the images that a data set lists, with the official division of the classes.

    Args:
        folder: of the data set.
        images: in the order of the list.
        official: numbers of images by group and of classes by part, such as "query images" and "test classes".
        retrieval: what else is known of the images.
        below: the folder of the images in `folder`.

    Raises:
        ValueError: there are other numbers of images or classes, or a class is in two parts.
    """
    counts = Counter(f"{image.group} images" for image in images)
    counts.update(f"{part} classes" for part, _ in {(image.part, image.name) for image in images})
    if counts != Counter(official):
        raise ValueError(
            f"{printable(folder)} lists {_shown({name: counts[name] for name in official})}; the official data set has "
            f"{_shown(official)}. {AGAIN}"
        )
    places = tuple(image.place for image in images)
    labels, class_names, split = numbered(
        [image.name for image in images], [image.part for image in images], places, printable(folder)
    )
    return Index(
        items=[str(folder / below / image.path) for image in images],
        labels=labels,
        boxes=None,
        class_names=class_names,
        names=tuple(image.path for image in images),
        split=split,
        retrieval=retrieval,
        places=places,
    )


def _shown(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
