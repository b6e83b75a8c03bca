"""Which images are searched for, among which, and which of these a query does not find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxml import arguments


@dataclass(frozen=True)
class Protocol:
    """A protocol of retrieval among N images."""

    queries: np.ndarray
    """int [Q], places of the images that are searched for."""
    gallery: np.ndarray
    """int [M], places of the images among which is searched, each once, in rising order."""
    groups: np.ndarray
    """int [N], numbered from 0; no query finds an image of its own group."""

    @classmethod
    def of(
        cls,
        count: int,
        queries: np.ndarray | None = None,
        gallery: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> Protocol:
        """The protocol for `count` images: all are queries and gallery, and each is a group, where nothing is given.

        Raises:
            ValueError: queries or gallery are no places, or groups are no integers [count]; names it.
        """
        every = np.arange(count)
        return cls(
            every if queries is None else arguments.places("queries", queries, count),
            every if gallery is None else np.unique(arguments.places("gallery", gallery, count)),
            every if groups is None else _numbered(arguments.labels("groups", groups, count)),
        )

    def found(self) -> np.ndarray:
        """How many images of the gallery each of the N images may find, int [N]."""
        return len(self.gallery) - self._members(self.groups)

    def relevant(self, classes: np.ndarray) -> np.ndarray:
        """How many of these are of its class, int [N], for classes int [N], numbered from 0."""
        together = np.unique(np.stack([classes, self.groups]), axis=1, return_inverse=True)[1].reshape(-1)
        return self._members(classes) - self._members(together)

    def _members(self, numbers: np.ndarray) -> np.ndarray:
        """How many images of the gallery have the number of each image, int [N]."""
        return np.bincount(numbers[self.gallery], minlength=numbers.max() + 1)[numbers]


def _numbered(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1]
