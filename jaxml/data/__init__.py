"""Images and batches: data sets, class splits, P x K sampling, augmentation, and two input paths."""

from __future__ import annotations

from jaxml.config import Data
from jaxml.data import manifest
from jaxml.data.index import ImageError, Index, Retrieval
from jaxml.data.sources import SOURCES

__all__ = ["SOURCES", "ImageError", "Index", "Retrieval", "load"]


def load(config: Data) -> Index:
    """Index of the configured data set, with every file of it checked by `manifest.check`.

    Raises:
        ValueError: the source is unknown, or its folder is not what it should be.
        ImageError: images cannot be used.
    """
    if config.source not in SOURCES:
        raise ValueError(f"--data.source is {config.source!r}; it must be one of {', '.join(SOURCES)}")
    index = SOURCES[config.source](config.root)
    return index if index.hashes else manifest.check(index, config)
