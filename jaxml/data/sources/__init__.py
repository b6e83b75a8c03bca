"""The table of data sets: a new one is one file with a function that returns its Index, and one row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jaxml.data.index import Index
from jaxml.data.sources import (
    array_record,
    cub,
    folder,
    glyphs,
    hugging_face,
    in_shop,
    inaturalist,
    sop,
    table,
    tfds,
)

SOURCES: dict[str, Callable[[str], Index]] = {
    "glyphs": lambda root: glyphs.load(),  # drawn, not read from a folder
    "cub": cub.load,
    "folder": folder.load,
    "table": table.load,
    "hugging_face": hugging_face.load,
    "array_record": array_record.load,
    "sop": sop.load,
    "in_shop": in_shop.load,
    "inaturalist": inaturalist.load,
    **{name: partial(tfds.load, name) for name in tfds.LABELS},
}
"""By name, functions from `data.root`, the folder, file or address of the data set, to the index of its images.

An index without hashes has files that may change: `data.load` checks them against the data set's manifest.
"""
