"""Numbers of classes that a list names by text: by part of the split, and in each part in natural order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxml.data import splits
from jaxml.data.natural import natural
from jaxml.files import printable


def numbered(
    classes: Sequence[str], parts: Sequence[str], places: Sequence[str], stated_in: str
) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Labels int32 [N] of images, the names of their classes, and the division of these as `splits.split` reads it.

    Ranges of classes can state every division, because the classes of each part have successive numbers.

    Args:
        classes: N names, one for each image.
        parts: "train", "val" or "test" for each image; empty if the list states no division, which is then "".
        places: where each image is listed, for errors.
        stated_in: what states the division, for errors.

    Raises:
        ValueError: images of a class are in different parts, or there are too few classes to learn from.
    """
    first: dict[str, int] = {}
    for i, name in enumerate(classes):
        other = first.setdefault(name, i)
        if parts and parts[other] != parts[i]:
            raise ValueError(
                f"{places[i]}: class {printable(name)} is in {parts[i]}, but {places[other]} has it in {parts[other]}; "
                f"all images of a class must be in one part"
            )
    part_of = {name: splits.PARTS.index(parts[i]) if parts else 0 for name, i in first.items()}
    names = sorted(first, key=lambda name: (part_of[name], natural(name), name))
    number = {name: label for label, name in enumerate(names)}
    counts = Counter(part_of.values())
    try:
        split = splits.ranges(*(counts[part] for part in range(len(splits.PARTS)))) if parts else ""
    except ValueError as error:
        raise ValueError(f"{stated_in}: {error}") from None
    return np.array([number[name] for name in classes], np.int32), tuple(names), split
