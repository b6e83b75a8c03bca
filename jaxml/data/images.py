"""A data set as a run sees it: index, class split, and pixels by row from either input path."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from jaxml import data
from jaxml.config import Data
from jaxml.data import resident, splits
from jaxml.files import printable


@dataclass(frozen=True)
class Images:
    """The images of a data set and the classes of each part."""

    index: data.Index
    parts: dict[str, np.ndarray]
    """Class ids of train, val and test."""
    read: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]
    """Vectors of row numbers [b] -> pixels uint8 [b, S, S, 3], in the same order."""
    resident: np.ndarray | None
    """All pixels uint8 [N, S, S, 3] where the input is resident."""

    def classes(self, part: str) -> np.ndarray:
        """Class ids of a part; `train+val` joins two."""
        return np.concatenate([self.parts[name] for name in part.split("+")])

    def rows(self, part: str) -> np.ndarray:
        """Row numbers of a part's images; ValueError for a split without that part."""
        if not len(self.classes(part)):
            raise ValueError(f"this split has no {part} classes: it was made to tune on, not to test")
        return np.flatnonzero(np.isin(self.index.labels, self.classes(part)))


def open_images(config: Data, devices: Sequence[Any] = ()) -> Images:
    """Index, split and pixels of the configured data set; a warning counts images that are in several parts.

    `devices` are those that are to hold it whole, if it is resident.

    Raises:
      ValueError: an unknown source or split, classes that the data set lacks, or too little memory.
      ImageError: an image that can not be decoded.
    """
    index = data.load(config)
    parts = splits.split(config.split, len(index.class_names))
    if not len(parts["test"]):
        # Nothing that tunes on this split can read a test image, whatever it does.
        index = index.take(np.flatnonzero(np.isin(index.labels, np.concatenate(list(parts.values())))))
    _warn_of_copies(index, parts)
    if config.input == "resident":
        resident.check_fits(index, config, devices)  # before an hour of decoding, perhaps
        pixels = resident.load(index, config)
        return Images(index, parts, lambda batches: (pixels[rows] for rows in batches), pixels)
    from jaxml.data import streamed as tf_pipeline

    return Images(index, parts, partial(tf_pipeline.batches, index, config), None)


def _warn_of_copies(index: data.Index, parts: dict[str, np.ndarray]) -> None:
    """Warn of the same file in classes of several parts: what it is tested by, the network has learned."""
    part_of = {label: part for part, labels in parts.items() for label in labels.tolist()}
    first: dict[str, int] = {}
    copies = []
    for i, (digest, label) in enumerate(zip(index.hashes, index.labels.tolist(), strict=False)):
        if label in part_of:
            other = first.setdefault(digest, i)
            if part_of[label] != part_of[int(index.labels[other])]:
                copies.append((other, i))
    if copies:
        shown = [f"{printable(index.names[i])} ({part_of[int(index.labels[i])]})" for i in copies[0]]
        warnings.warn(
            f"{len(copies)} image(s) are byte for byte the same as one in another part of the split, such as "
            f"{' and '.join(shown)}: classes of the parts must have different images",
            stacklevel=2,
        )
