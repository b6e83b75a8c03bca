"""A data set as a run uses it: its index, the classes of each part of the split, and pixels by row."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxml import data, distributed
from jaxml.config import Data
from jaxml.data import resident, splits
from jaxml.files import printable


@dataclass(frozen=True)
class Images:
    """The images of a data set and the classes of each part."""

    index: data.Index
    parts: dict[str, np.ndarray]
    """Class ids int [C] of the parts train, val and test."""
    read: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]
    """Vectors of row numbers int [b] to pixels uint8 [b, S, S, 3], in the same order."""
    resident: bool
    """Whether pixels are decoded before the run begins, not while batches are read."""

    def classes(self, part: str) -> np.ndarray:
        """Class ids int [C] of a part; `train+val` joins two."""
        return np.concatenate([self.parts[name] for name in part.split("+")])

    def rows(self, part: str) -> np.ndarray:
        """Row numbers int [n] of the images of a part.

        Raises:
            ValueError: the split has no such part.
        """
        if not len(self.classes(part)):
            there = " and ".join(name for name, classes in self.parts.items() if len(classes))
            raise ValueError(f"--split {part}: there are no {part} classes in --data.split, only {there}")
        return np.flatnonzero(np.isin(self.index.labels, self.classes(part)))


Check = Callable[[data.Index, Mapping[str, np.ndarray]], None]
"""Function (index, class ids of the parts) that refuses a data set by raising an error."""


def open_images(
    config: Data, devices: Sequence[Any] = (), check: Check = lambda index, parts: None
) -> Images:
    """Open the configured data set; a warning counts images that are in several parts of the split.

    Args:
        config: the data set, its split and its input path.
        devices: those of this process among which the images to learn from are divided, if they are resident;
            none if nothing is learned.
        check: called before anything is decoded.

    Raises:
        ValueError: an unknown source or split, classes that the data set lacks, or too little memory.
        ImageError: an image cannot be decoded.
    """
    index = data.load(config)
    parts = splits.split(config.split, len(index.class_names), index.split)
    if index.split and config.split in splits.NAMED:
        warnings.warn(
            f"--data.split {config.split} divides the classes otherwise than {config.source} states it; "
            f"--data.split {splits.SOURCE} takes that division",
            stacklevel=2,
        )
    if not len(parts["test"]):
        # Test images are dropped altogether, so that nothing that tunes on this split can read one.
        index = index.take(np.flatnonzero(np.isin(index.labels, np.concatenate(list(parts.values())))))
    check(index, parts)
    _warn_of_copies(index, parts)
    if config.input == "resident":
        if devices:  # before decoding, which may take an hour
            learned = np.concatenate([parts[part] for part in config.train_on.split("+")])
            count = int(np.isin(index.labels, learned).sum())
            resident.check_fits(count, config, devices, jax.process_count())
        return Images(index, parts, resident.Pixels(index, config, _own(index, config, parts)).read, True)
    from jaxml.data import streamed  # imports tensorflow

    return Images(index, parts, partial(streamed.batches, index, config), False)


def _own(index: data.Index, config: Data, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rows int [n] of the images that this process learns from and embeds: all, if there is no other."""
    if jax.process_count() == 1:
        return np.arange(len(index.labels))
    learned = config.train_on.split("+")
    groups = [[parts[name] for name in learned], *([parts[name]] for name in parts if name not in learned)]
    rows = [np.flatnonzero(np.isin(index.labels, np.concatenate(group))) for group in groups]
    return np.unique(np.concatenate([distributed.share(own) for own in rows if len(own)]))


def _warn_of_copies(index: data.Index, parts: dict[str, np.ndarray]) -> None:
    """Warn of files that are in classes of several parts: the network would be tested on what it has learned."""
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
