"""Draws P x K batches, P classes and K images of each, as a pure function of (seed, step).

Where classes belong to categories, such as species to families, a batch may hold several classes of each of some
categories, so that images are compared with others that are hard to tell apart, and every category comes equally often.

The draw uses integer arithmetic on threefry bits and stable sorts alone, so it is the same on every backend and under
jit, vmap and scan, and a resumed run needs only the step number.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import arguments

Array = jax.Array


class ClassTable(NamedTuple):
    """The images of each class that may be drawn."""

    members: Array
    """int32 [C, size of the largest class]: image ids; rows of smaller classes end in padding that is never drawn."""
    sizes: Array
    """int32 [C]: number of images in each class."""
    categories: Array | None = None
    """int32 [C]: the category of each class, 0 .. C - 1; None where all classes are drawn alike."""


def class_table(labels: np.ndarray, classes: np.ndarray, categories: np.ndarray | None = None) -> ClassTable:
    """The table of the images of `classes` int [C], of `categories` int [C], in a data set with `labels` int [N].

    Raises:
        ValueError: a class has no image.
    """
    labels, classes = arguments.labels("labels", labels), arguments.labels("classes", classes)
    members = [np.flatnonzero(labels == c) for c in classes]
    sizes = np.array([len(m) for m in members], np.int32)
    if sizes.min() == 0:
        raise ValueError(
            f"classes {classes[sizes == 0].tolist()} have no images: leave them out of the split"
        )
    table = np.stack([np.resize(m, sizes.max()) for m in members]).astype(np.int32)
    places = None
    if categories is not None:
        places = jnp.asarray(arguments.labels("categories", categories, len(classes)), jnp.int32)
    return ClassTable(jnp.asarray(table), jnp.asarray(sizes), places)


def sample(
    seed: int | Array,
    step: int | Array,
    table: ClassTable,
    classes_per_batch: int,
    images_per_class: int,
    classes_per_category: int = 1,
) -> tuple[Array, Array]:
    """Draw P = classes_per_batch classes without replacement, and K = images_per_class images of each.

    Where the table has categories, `classes_per_category` classes are drawn of each of P / classes_per_category
    categories. One that has fewer gives all that it has, and further categories fill the batch; where all of them
    together have given too few, they give as many once more.

    A class of at least K images gives K different ones; a smaller class is sampled with replacement.

    Returns image ids and class positions (rows of the table), both int32 [P K]; the K images of a class are adjacent.

    Raises:
        ValueError: the table has fewer than P classes, or an argument is not a whole number in its range.

    Example:
        >>> import numpy as np
        >>> from jaxml.data.sampling import class_table, sample
        >>> table = class_table(np.array([5, 5, 7, 7, 7, 9, 9]), classes=np.array([5, 7, 9]))
        >>> images, classes = sample(0, 0, table, classes_per_batch=2, images_per_class=2)
        >>> images.shape, classes.shape
        ((4,), (4,))
    """
    num_classes, largest = table.members.shape
    p = arguments.whole("classes_per_batch", classes_per_batch)
    if p > num_classes:
        raise ValueError(f"classes_per_batch={p} must be at most the {num_classes} classes to train on")
    k = arguments.whole("images_per_class", images_per_class)
    m = arguments.whole("classes_per_category", classes_per_category)
    if not isinstance(seed, jax.Array):
        arguments.whole("seed", seed, 0, 2**32 - 1)
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)
    class_key, order_key, repeat_key = jax.random.split(key, 3)
    classes = _in_random_order(class_key, table, m)[:p]
    sizes = table.sizes[classes][:, None]

    # Padding gets the largest bits; the sort is stable, so it comes last even where a draw equals it.
    bits = jax.random.bits(order_key, (p, largest), jnp.uint32)
    past_end = jnp.arange(largest, dtype=jnp.int32)[None, :] >= sizes
    order = jnp.argsort(jnp.where(past_end, jnp.uint32(0xFFFFFFFF), bits), axis=1, stable=True)[:, :k]
    order = jnp.pad(order, ((0, 0), (0, k - order.shape[1])))
    repeats = jax.random.bits(repeat_key, (p, k), jnp.uint32) % sizes.astype(jnp.uint32)
    places = jnp.where(sizes >= k, order.astype(jnp.int32), repeats.astype(jnp.int32))

    indices = jnp.take_along_axis(table.members[classes], places, axis=1)
    return indices.reshape(-1), jnp.repeat(classes.astype(jnp.int32), k)


def _in_random_order(key: Array, table: ClassTable, per_category: int) -> Array:
    """All classes in random order, int [C]; by categories, in turns of `per_category` classes of each."""
    count = table.sizes.shape[0]
    bits = jax.random.bits(key, (count,), jnp.uint32)
    if table.categories is None:
        return jnp.argsort(bits, stable=True)
    of_category = jax.random.bits(jax.random.fold_in(key, 1), (count,), jnp.uint32)[table.categories]
    # Side by side by category, each class knows how many of its own category are before it.
    order = jnp.lexsort((bits, table.categories))
    category = table.categories[order]
    place = jnp.arange(count) - jnp.searchsorted(category, category, side="left")
    return order[jnp.lexsort((place, category, of_category[order], place // per_category))]
