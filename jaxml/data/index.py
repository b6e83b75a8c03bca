"""The index of a data set: its images, not yet decoded, with labels, boxes and names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxml.files import printable

LARGEST = 2**30
"""Bound of the coordinates of a box, in pixels; far beyond any image."""


class ImageError(ValueError):
    """An image is missing, damaged, changed or too large; the message names the file and says what to do."""


@dataclass(frozen=True)
class Retrieval:
    """What the data set says of N images for protocols of retrieval, beside their classes."""

    is_query: np.ndarray | None = None
    """bool [N]: the images that are searched for; None if the data set does not say."""
    is_gallery: np.ndarray | None = None
    """bool [N]: the images among which is searched; an image may be both. Given where `is_query` is."""
    categories: tuple[str, ...] = ()
    """N names of groups of classes, "" for an image without one; empty if the data set has none."""
    sequences: tuple[str, ...] = ()
    """N names of what was photographed at one time, among which a query is not searched for, "" for an image alone;
    empty if the data set has none."""

    def protocol(self) -> dict[str, Any]:
        """Queries, gallery and groups of images as `jaxml.metrics.retrieval` takes them, as far as the data set says.

        Images without any query among them, such as those of training classes, are all queries and gallery.
        """
        found: dict[str, Any] = {}
        if self.is_query is not None and self.is_gallery is not None and self.is_query.any():
            found = {"queries": np.flatnonzero(self.is_query), "gallery": np.flatnonzero(self.is_gallery)}
        if self.sequences:
            names = np.array(self.sequences)
            groups = np.unique(names, return_inverse=True)[1]
            found["groups"] = np.where(names == "", len(names) + np.arange(len(names)), groups)
        return found

    def check(self, n: int) -> None:
        """ValueError unless everything that is given is of n images."""
        for name in ("is_query", "is_gallery"):
            flags = getattr(self, name)
            if flags is not None and (flags.shape != (n,) or flags.dtype != bool):
                raise ValueError(f"{name} must be bool [{n}]; got {flags.dtype} {flags.shape}")
        if (self.is_query is None) != (self.is_gallery is None):
            raise ValueError("is_query and is_gallery must be given together")
        for name in ("categories", "sequences"):
            if len(getattr(self, name)) not in (0, n):
                raise ValueError(f"{name} must be {n} strings, one per item, or none")

    def take(self, rows: np.ndarray) -> Retrieval:
        """What is said of the images `rows` int [n] alone."""
        return Retrieval(
            is_query=None if self.is_query is None else self.is_query[rows],
            is_gallery=None if self.is_gallery is None else self.is_gallery[rows],
            categories=_taken(self.categories, rows),
            sequences=_taken(self.sequences, rows),
        )


def _taken(values: tuple[str, ...], rows: np.ndarray) -> tuple[str, ...]:
    """The values of rows int [n]; none where there are none."""
    return tuple(values[i] for i in rows) if values else ()


class Records(Sequence[str | bytes]):
    """Items that are read each time they are asked for, as there may be more of them than fit into memory.

    Args:
        read: function from the number of a record to its item.
        numbers: int [N], those of the records that there are.
    """

    def __init__(self, read: Callable[[int], str | bytes], numbers: np.ndarray) -> None:
        self._read, self._numbers = read, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: Any) -> Any:
        return self._read(int(self._numbers[i]))

    def take(self, rows: np.ndarray) -> Records:
        """The items of `rows` int [n] alone, of which none is read."""
        return Records(self._read, self._numbers[rows])


@dataclass(frozen=True)
class Index:
    """N images of a data set, not yet decoded, with labels, and boxes where the source has them."""

    items: Sequence[str | bytes]
    """N paths, or N encoded images (see `formats.FORMATS`)."""
    labels: np.ndarray
    """int32 [N], each in 0 .. number of classes - 1."""
    boxes: np.ndarray | None
    """float32 [N, 4]: left, top, width, height in pixels of the upright picture, each finite and below LARGEST in
    magnitude; None if the source has no boxes."""
    class_names: tuple[str, ...]
    """One per class."""
    names: tuple[str, ...]
    """One per image, unique; used in reports and errors."""
    hashes: tuple[str, ...] = ()
    """N SHA-256 digests, one for the bytes of each item; empty until `manifest.check` has read them."""
    split: str = ""
    """The division of the classes that the data set itself states, as ranges that `splits.split` reads; "" if none."""
    retrieval: Retrieval = field(default_factory=Retrieval)
    """Queries, gallery, categories and sequences, as far as the data set has them."""
    places: tuple[str, ...] = ()
    """Where a list of the data set names each image, such as "birds.csv, row 7, column path", for errors; empty if no
    list does."""

    def __post_init__(self) -> None:
        n = len(self.items)
        if self.labels.shape != (n,) or self.labels.dtype != np.int32:
            raise ValueError(
                f"labels must be int32 [{n}], one per item; got {self.labels.dtype} {self.labels.shape}"
            )
        if self.boxes is not None and self.boxes.shape != (n, 4):
            raise ValueError(f"boxes must be [{n}, 4]; got {self.boxes.shape}")
        if self.boxes is not None and not (sane := (np.abs(self.boxes) < LARGEST).all(1)).all():
            row = int(np.argmin(sane))
            raise ValueError(
                f"the box of image {printable(self.names[row])} is {self.boxes[row].tolist()}: left, top, width and "
                f"height must be numbers of pixels"
            )
        if len(self.names) != n or len(set(self.names)) != n:
            raise ValueError(f"names must be {n} different strings, one per item")
        if n and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise ValueError(f"labels must lie in 0 .. {len(self.class_names) - 1}, the class_names given")
        self.retrieval.check(n)

    def take(self, rows: np.ndarray) -> Index:
        """The index of the images `rows` int [n] alone; classes keep their numbers."""
        items = self.items
        return Index(
            items=items.take(rows) if isinstance(items, Records) else [items[i] for i in rows],
            labels=self.labels[rows],
            boxes=None if self.boxes is None else self.boxes[rows],
            class_names=self.class_names,
            names=tuple(self.names[i] for i in rows),
            hashes=_taken(self.hashes, rows),
            split=self.split,
            retrieval=self.retrieval.take(rows),
            places=_taken(self.places, rows),
        )
