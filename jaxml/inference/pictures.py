"""Pictures as a user gives them, paths, Pillow images or arrays: checked, named and decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from jaxml.data.decode import corners, decode, fitted, parallel
from jaxml.data.index import ImageError
from jaxml.files import expand, printable

FORM = "paths, Pillow images or uint8 arrays [h, w, 3], a list of these, or one array [n, h, w, 3]"


class Source(Protocol):
    """N pictures that can be decoded."""

    @property
    def names(self) -> Sequence[str]:
        """One per picture."""

    def decode(self, size: int) -> Iterator[np.ndarray | ImageError]:
        """Yield each picture in order, uint8 [size, size, 3], or the error of one that cannot be read."""


@dataclass(frozen=True)
class Given:
    """N pictures, each a path, a Pillow image or an array uint8 [h, w, 3]."""

    items: Sequence[str | Image.Image | np.ndarray]
    names: Sequence[str]
    """The paths; for others, `picture 0` and so on by their place."""
    corners: np.ndarray | None = None
    """Crops int32 [N, 4]: left, top, right, bottom in pixels."""

    def decode(self, size: int) -> Iterator[np.ndarray | ImageError]:
        """Yield each picture in order, uint8 [size, size, 3], or the error of one that cannot be read."""

        def one(i: int) -> np.ndarray | ImageError:
            item, name = self.items[i], self.names[i]
            corner = None if self.corners is None else self.corners[i]
            try:
                if isinstance(item, str):
                    return decode(item, name, corner, size)
                image = item if isinstance(item, Image.Image) else Image.fromarray(item)
                return fitted(image, name, corner, size)
            except ImageError as error:
                return error

        return parallel(one, len(self.items), "embedding")


def given(pictures: Any, boxes: Any = None, *, first: int = 0) -> Given:
    """The pictures of one argument, and their boxes float [n, 4] (left, top, width, height in pixels) if there are any.

    The numbers in the names of those without a path begin at `first`.

    Raises:
        ValueError: it is nothing of FORM, an array has another shape or type, a path leads to a folder, or the boxes
            are not one for each picture.
    """
    if isinstance(pictures, Given):
        return pictures
    items: list[str | Image.Image | np.ndarray] = []
    names: list[str] = []
    for i, item in enumerate(_listed(pictures), first):
        if isinstance(item, str | Path):
            path = expand(item, "the path")
            if path.is_dir():
                raise ValueError(
                    f"{printable(item)} is a folder: give the files in it, or search it with model.index"
                )
            items.append(str(path))
            names.append(str(item))
        else:
            items.append(item if isinstance(item, Image.Image) else _pixels(item, i))
            names.append(f"picture {i}")
    return Given(items, names, None if boxes is None else _corners(boxes, len(items)))


def none_readable(errors: Mapping[str, str]) -> ImageError:
    """The error where none of some pictures can be read, each with its error by name."""
    first = next(iter(errors.values()))
    return ImageError(first if len(errors) == 1 else f"none of the {len(errors)} files can be read: {first}")


def _listed(pictures: Any) -> Iterable[Any]:
    """The pictures of an argument, one or many, as something to iterate over."""
    if isinstance(pictures, str | Path | Image.Image):
        return [pictures]
    if hasattr(pictures, "shape"):  # of NumPy, of JAX and of others
        return [pictures] if len(pictures.shape) == 3 else _pixels(pictures, None)
    if not isinstance(pictures, Iterable) or isinstance(pictures, bytes | dict):
        raise ValueError(f"pictures must be {FORM}; got {type(pictures).__name__}")
    return pictures


def _pixels(value: Any, place: int | None) -> np.ndarray:
    """An array uint8 [h, w, 3], or [n, h, w, 3] where it has no place in a list."""
    name, form = ("pictures", "[n, h, w, 3]") if place is None else (f"picture {place}", "[h, w, 3]")
    if not hasattr(value, "shape"):
        raise ValueError(f"{name} is {type(value).__name__}; pictures must be {FORM}")
    array = np.asarray(value)
    if array.ndim != form.count(",") + 1 or array.shape[-1] != 3 or 0 in array.shape[-3:]:
        raise ValueError(f"{name} has shape {list(array.shape)}; an array of pictures must be uint8 {form}")
    if array.dtype != np.uint8:
        raise ValueError(
            f"{name} is {array.dtype}; an array of pictures must be uint8, 0 to 255. Shares of 1 become that by "
            f"(255 * x).round().astype('uint8')"
        )
    return np.ascontiguousarray(array)


def _corners(boxes: Any, count: int) -> np.ndarray:
    values = np.asarray(boxes, np.float64)
    if values.shape != (count, 4) or not np.isfinite(values).all() or not (values[:, 2:] > 0).all():
        raise ValueError(
            f"boxes must be [{count}, 4], left, top, width and height in pixels for each picture, with width and "
            f"height above 0; got {list(values.shape)}"
        )
    return corners(values)
