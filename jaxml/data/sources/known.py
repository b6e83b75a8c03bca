"""What is known of data sets before they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jaxml.data import splits
from jaxml.data.sources import cub, glyphs, in_shop, inaturalist, sop


class Known(NamedTuple):
    """A data set whose numbers are fixed."""

    images: int
    classes: int
    division: str = ""
    """The official division of the classes, as ranges that `splits.split` reads; "" if the data set states none."""
    boxes: bool = False
    """Whether its images have boxes."""


def _official(counts: Mapping[str, int]) -> Known:
    """A data set with an official division, whose parts have these numbers of images and classes."""
    images, classes = (
        sum(count for name, count in counts.items() if name.endswith(kind)) for kind in ("images", "classes")
    )
    return Known(images, classes, splits.ranges(counts["train classes"], 0, counts["test classes"]))


KNOWN: dict[str, Known] = {
    "glyphs": Known(len(glyphs.CHARACTERS) * glyphs.IMAGES_PER_CLASS, len(glyphs.CHARACTERS)),
    "cub": Known(cub.IMAGES, cub.CLASSES, boxes=True),
    "caltech_birds2011": Known(cub.IMAGES, cub.CLASSES, boxes=True),
    "cars196": Known(16_185, 196, boxes=True),
    "stanford_online_products": _official(sop.COUNTS)._replace(division=""),
    "sop": _official(sop.COUNTS),
    "in_shop": _official(in_shop.COUNTS),
    "inaturalist": _official(inaturalist.COUNTS),
}
"""By the name of the source; data sets of other sources may have any size."""
