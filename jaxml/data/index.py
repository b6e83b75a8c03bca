"""The index of a data set: its images, not yet decoded, with labels, boxes and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxml.files import printable

LARGEST = 2**30
"""Bound of the coordinates of a box, in pixels; far beyond any image."""


class ImageError(ValueError):
    """An image is missing, damaged, changed or too large; the message names the file and says what to do."""


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

    def take(self, rows: np.ndarray) -> Index:
        """The index of the images `rows` int [n] alone; classes keep their numbers."""
        return Index(
            items=[self.items[i] for i in rows],
            labels=self.labels[rows],
            boxes=None if self.boxes is None else self.boxes[rows],
            class_names=self.class_names,
            names=tuple(self.names[i] for i in rows),
            hashes=tuple(self.hashes[i] for i in rows) if self.hashes else (),
        )
