"""Splits of a data set by class: no class is in more than one of the parts train, val and test."""

from __future__ import annotations

import itertools
import re

import numpy as np

from jaxml import arguments

NAMED = ("poster", "standard")
"""Divisions by shares, which fit every data set."""
SOURCE = "source"
"""The division that a data set states itself."""
PARTS = ("train", "val", "test")


def split(name: str, num_classes: int, stated: str = "") -> dict[str, np.ndarray]:
    """Class ids of the parts "train", "val" and "test", ascending int32 [C] each; no class is in two of them.

    Named splits, with the numbers of classes of 200:
        poster: the first 40 % of the classes, the next 20 %, the last 40 %: 80, 40, 80 (Shah 2017, poster)
        standard: the first half, of which the last fifth is val, then the second half: 80, 20, 100
            (Song et al. 2016, section 6)
        source: the one that the data set states

    Args:
        name: "poster", "standard", "source", or inclusive ranges train/val/test such as "0-59/60-79/80-99"; without
            the third range, as `without_test` writes them, there are no test classes.
        num_classes: C, the number of classes of the data set.
        stated: the ranges that the data set states, `Index.split`; "" if it states none.

    Raises:
        ValueError: an unknown name, "source" of a data set that states no division, a range outside
            0 .. num_classes - 1, a class in two parts, or a part without classes.

    Example:
        >>> from jaxml.data.splits import split
        >>> {part: len(classes) for part, classes in split("standard", 200).items()}
        {'train': 80, 'val': 20, 'test': 100}
    """
    arguments.whole("num_classes", num_classes)
    if not isinstance(name, str):
        raise ValueError(f"--data.split must be text, such as {' or '.join(NAMED)}; got {name!r}")
    if name == SOURCE:
        if not stated:
            raise ValueError(
                f"--data.split {SOURCE}: the data set states no division of its classes, as a table does in a column "
                f"split; give {' or '.join(NAMED)}, or ranges train/val/test such as 0-59/60-79/80-99"
            )
        return split(stated, num_classes)
    if name == "poster":
        bounds = [0, round(0.4 * num_classes), round(0.6 * num_classes), num_classes]
        ranges = list(itertools.pairwise(bounds))
    elif name == "standard":
        half = num_classes // 2
        ranges = [(0, half - half // 5), (half - half // 5, half), (half, num_classes)]
    elif re.fullmatch(r"\d+-\d+(/\d+-\d+){1,2}", name):
        bounds = [int(bound) for part in name.split("/") for bound in part.split("-")]
        ranges = [(first, last + 1) for first, last in zip(bounds[::2], bounds[1::2], strict=True)]
    else:
        raise ValueError(
            f"--data.split is {name!r}; it must be {' or '.join(NAMED)}, {SOURCE} for the one that the data set "
            f"states, or inclusive class ranges train/val/test such as 0-59/60-79/80-99"
        )
    for first, stop in ranges:
        if stop > num_classes:
            raise ValueError(
                f"--data.split {name} names class {stop - 1}, but the data set has classes 0 to {num_classes - 1}"
            )
        if first >= stop:
            raise ValueError(
                f"--data.split {name} leaves a part without classes (the data set has {num_classes}): each of "
                f"train, val and test needs at least one, and ranges ascend"
            )
    ranges += [(0, 0)] * (3 - len(ranges))
    parts = {part: np.arange(*bounds, dtype=np.int32) for part, bounds in zip(PARTS, ranges, strict=True)}
    together = np.concatenate(list(parts.values()))
    if len(np.unique(together)) != len(together):
        twice = np.flatnonzero(np.bincount(together) > 1).tolist()
        raise ValueError(f"--data.split {name} puts classes {twice} into two parts; ranges must not overlap")
    return parts


def ranges(train: int, val: int, test: int) -> str:
    """A division into so many classes of each part, in this order, as text that `split` reads.

    Without val classes, the last fifth of the train classes becomes val, as in "standard".

    Raises:
        ValueError: there are too few train classes.

    Example:
        >>> from jaxml.data.splits import ranges
        >>> ranges(11_318, 0, 11_316)
        '0-9054/9055-11317/11318-22633'
    """
    for name, count in (("train", train), ("val", val), ("test", test)):
        arguments.whole(name, count, minimum=0)
    if not val:
        train, val = train - train // 5, train // 5
    if not (train and val):
        raise ValueError(
            f"train has {train + val} classes and val none: it needs at least 1 class, or without val 5, of which one "
            f"becomes val"
        )
    stops = itertools.accumulate((train, val, test) if test else (train, val))
    return "/".join(f"{first}-{stop - 1}" for first, stop in itertools.pairwise((0, *stops)))


def without_test(name: str, num_classes: int, stated: str = "") -> str:
    """The train and val parts of a split as explicit ranges; images of other classes are then never read.

    Raises:
        ValueError: as `split`.

    Example:
        >>> from jaxml.data.splits import without_test
        >>> without_test("standard", 200)
        '0-79/80-99'
    """
    parts = split(name, num_classes, stated)
    return "/".join(f"{parts[part][0]}-{parts[part][-1]}" for part in ("train", "val"))
