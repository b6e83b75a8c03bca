"""Images and batches: sources, class splits, P x K sampling, augmentation, and two input paths."""

from __future__ import annotations

from jaxml.config import Data
from jaxml.data import manifest
from jaxml.data.index import ImageError, Index
from jaxml.data.sources import cub, folder, glyphs

SOURCES = ("glyphs", "cub", "folder", "caltech_birds2011", "cars196", "stanford_online_products")

__all__ = ["SOURCES", "ImageError", "Index", "load"]


def load(config: Data) -> Index:
    """Index of the configured data set, every file of it checked (`manifest.check`).

    Raises ValueError for an unknown source or a wrong folder, ImageError for images that cannot be used.
    """
    if config.source == "glyphs":
        return glyphs.load()
    if config.source == "cub":
        index = cub.load(config.root)
    elif config.source == "folder":
        index = folder.load(config.root)
    elif config.source in SOURCES:
        from jaxml.data.sources import tfds  # loads tensorflow

        index = tfds.load(config.source, config.root)
    else:
        raise ValueError(f"--data.source {config.source!r} is unknown: give one of {', '.join(SOURCES)}")
    return manifest.check(index, config)
