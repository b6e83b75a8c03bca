"""Categories of classes, such as families of species, from which batches may take several classes each."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from jaxml.data.index import Index
from jaxml.data.splits import SOURCE
from jaxml.files import printable


def of_classes(category: str, index: Index, classes: np.ndarray) -> np.ndarray:
    """The categories int32 [C] of the `classes` int [C] of a data set.

    Args:
        category: `data.category`: "source" for what the data set states, else an expression, see `named`.
        index: the data set.
        classes: those whose categories are wanted.

    Raises:
        ValueError: a class has no category, or several.
    """
    if category == SOURCE:
        return _stated(index, classes)
    return named(category, [index.class_names[label] for label in classes])


def named(expression: str, names: Sequence[str]) -> np.ndarray:
    """The categories int32 [C] of classes, by what the first group of an expression matches in their names.

    Raises:
        ValueError: the name of a class is not matched.

    Example:
        >>> from jaxml.data.categories import named
        >>> named(".*_(.+)", ["Laysan_Albatross", "Brewer_Blackbird", "Sooty_Albatross"]).tolist()
        [0, 1, 0]
    """
    found = [re.fullmatch(expression, name) for name in names]
    if None in found:
        raise ValueError(
            f"--data.category {expression!r} does not match class {printable(names[found.index(None)])}; it must match "
            f"the whole name of every class"
        )
    return _numbered([match[1] or "" for match in found if match])


def _stated(index: Index, classes: np.ndarray) -> np.ndarray:
    """The categories of classes as their images state them."""
    stated = index.retrieval.categories
    if not stated:
        raise ValueError(
            "--data.category source: the data set states no categories; give an expression that matches them in the "
            "names of the classes, or leave the option out"
        )
    of_class: dict[int, str] = {}
    for label, category in zip(index.labels.tolist(), stated, strict=True):
        if of_class.setdefault(label, category) != category:
            raise ValueError(
                f"--data.category source: class {printable(index.class_names[label])} has the categories "
                f"{printable(of_class[label])!r} and {printable(category)!r}; give all its images the same"
            )
    found = [of_class[label] for label in classes.tolist()]
    if "" in found:
        name = index.class_names[classes[found.index("")]]
        raise ValueError(
            f"--data.category source: class {printable(name)} has no category; give its images one"
        )
    return _numbered(found)


def _numbered(names: Sequence[str]) -> np.ndarray:
    """Numbers int32 [C] of the categories with these names, counted from 0 in the order of the names."""
    return np.unique(names, return_inverse=True)[1].astype(np.int32)
