"""Data sets whose pictures are records that a library reads by number, in parts such as train and test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxml.data.index import Index, Records
from jaxml.data.sources.numbering import numbered
from jaxml.data.sources.table import PARTS


@dataclass(frozen=True)
class Part:
    """N records, each a picture with its class."""

    labels: Sequence[int | str | None]
    """The classes by number or by name."""
    read: Callable[[int], str | bytes]
    """From the number of a record, counted from 0, to its encoded picture, or to the path of a file that holds it."""
    files: Sequence[str | None] = ()
    """Names of the files from which the pictures are, as far as they are known; empty if the data set has none."""

    def name(self, part: str, i: int) -> str:
        """The name of a record: its part and its number there, and the file if there is one."""
        file = self.files[i] if self.files else None
        return f"{part}/{i} ({file})" if file else f"{part}/{i}"


def refused(root: str, name: str, features: Mapping[str, object], wanted: str) -> ValueError:
    """The error of a data set in which a column is missing or of another type, which says what it must hold."""
    there = f"holds {features[name]}" if name in features else f"is not there, but {', '.join(features)}"
    return ValueError(
        f"--data.root {root!r}: the column {name} {' '.join(there.split())}; it must hold {wanted}"
    )


def index(root: str, parts: Mapping[str, Part], class_names: Sequence[str] | None) -> Index:
    """The index of all records, in the order of their parts, to be divided by class.

    Classes are in the order of their numbers, or of their names if they have none; those without a picture are left
    out. If the parts are called train, val or validation, and test, there are at least two of them with train, and no
    class is in two, then they are the division that the data set states; the classes are then in the order of the parts
    first.

    Args:
        root: `data.root` as the user gave it, for errors.
        parts: by name.
        class_names: the names of classes by number, where labels are such numbers; None where they are classes
            themselves.

    Raises:
        ValueError: there are no records, or one has no class.
    """
    names, classes, groups = [], [], []
    for part, records in parts.items():
        for i, label in enumerate(records.labels):
            name = records.name(part, i)
            if label in (None, "") or (class_names is not None and label not in range(len(class_names))):
                raise ValueError(
                    f"--data.root {root!r}: the record {name} has no class, its label is {label!r}; keep only records "
                    f"that have one"
                )
            names.append(name)
            classes.append(str(label))
            groups.append(PARTS.get(part, ""))
    if not names:
        raise ValueError(f"--data.root {root!r} has no records; give a data set with pictures")
    alone = len({*zip(classes, groups, strict=True)}) == len({*classes})
    divided = alone and {"train"} < {*groups} <= {*PARTS.values()}
    labels, keys, split = numbered(
        classes, groups if divided else (), names, f"--data.root {root!r}, by its parts"
    )
    counts = [len(records.labels) for records in parts.values()]
    readers = [records.read for records in parts.values()]
    part_of = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum([0, *counts])
    return Index(
        items=Records(lambda i: readers[part_of[i]](i - int(starts[part_of[i]])), np.arange(len(names))),
        labels=labels,
        boxes=None,
        class_names=keys if class_names is None else tuple(class_names[int(key)] for key in keys),
        names=tuple(names),
        split=split,
    )
