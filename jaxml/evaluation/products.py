"""Squared distances of many queries to many points, block by block, on the devices of this process.

The points are divided over these devices and everything is computed in float32, with products at the highest precision.
Devices of other processes take no part, so that a process may search alone. Where the device is a CPU and faiss is
installed, its flat index is searched instead, which is quicker there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Array = jax.Array

BLOCK_BYTES = 256 * 2**20
"""Memory of one block of distances on each device."""
QUERIES = 4096
"""Queries that faiss is given at a time."""
CHUNK = 128
"""Neighbouring points whose least value stands for all of them in the first round of a selection."""


def rounding(width: int) -> float:
    """The values of `least` are exact but for this share of |q|^2 + |x|^2; `width` is D."""
    terms = width + 8 if _faiss() is None else 2 * (width + 8)  # faiss rounds the sums of squares as well
    return terms * float(np.finfo(np.float32).eps)


def least(
    queries: np.ndarray, points: np.ndarray, count: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """The least values of |x|^2 - 2 q.x over the points x for each query q, which are its nearest points.

    Args:
        queries: float32 [Q, D].
        points: float32 [M, D].
        count: how many for each query, at most M.

    Yields:
        The place of a block of b queries, the values float32 [b, count] in rising order, and the rows int32 [b, count]
        of their points.

    Example:
        >>> (block,) = least(np.array([[1.0]], np.float32), np.array([[5.0], [2.0]], np.float32), count=1)
        >>> block[1].tolist(), block[2].tolist()
        ([[0.0]], [[1]])
    """
    if _faiss() is not None:
        yield from _least_by_faiss(queries, points, count)
        return
    divided, squares = _divided(points)
    block = max(1, min(len(queries), BLOCK_BYTES // (4 * divided.shape[1])))
    begun: list[tuple[slice, Array, Array]] = []
    for start in range(0, len(queries), block):
        place = slice(start, min(start + block, len(queries)))
        # The last block is filled up, so that all have one shape and are compiled once.
        rows = np.minimum(np.arange(start, start + block), len(queries) - 1)
        begun.append((place, *_least(queries[rows], divided, squares, count=count)))
        if len(begun) > 1:  # while the devices go on with the next block, the caller works on this one
            yield _fetched(*begun.pop(0))
    yield from (_fetched(*one) for one in begun)


def _least_by_faiss(
    queries: np.ndarray, points: np.ndarray, count: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """`least` by a flat index of faiss, whose distances include |q|^2."""
    index = _faiss().IndexFlatL2(points.shape[1])
    index.add(np.ascontiguousarray(points))
    for start in range(0, len(queries), QUERIES):
        part = np.ascontiguousarray(queries[start : start + QUERIES])
        distances, rows = index.search(part, count)
        values = distances - np.square(part.astype(np.float64)).sum(1)[:, None]
        yield slice(start, start + len(part)), values, rows


@cache
def _faiss() -> Any:
    """The module faiss, where it is installed and the device is a CPU; otherwise None."""
    if jax.default_backend() != "cpu":
        return None
    try:
        return import_module("faiss")
    except ImportError:
        return None


def _fetched(place: slice, values: Array, rows: Array) -> tuple[slice, np.ndarray, np.ndarray]:
    size = place.stop - place.start
    return place, np.asarray(values)[:size], np.asarray(rows)[:size]


def _divided(points: np.ndarray) -> tuple[Array, Array]:
    """Points [S, P, D] and their squared lengths [S, P] on S devices; rows beyond the points are infinitely far."""
    devices = jax.local_devices()
    size = -(-len(points) // (len(devices) * CHUNK)) * CHUNK
    missing = len(devices) * size - len(points)
    rows = np.concatenate([points, np.zeros((missing, points.shape[1]), np.float32)])
    squares = np.square(rows.astype(np.float64)).sum(1).astype(np.float32)
    squares[len(points) :] = np.inf
    places = NamedSharding(Mesh(np.array(devices), ("devices",)), PartitionSpec("devices"))
    shape = (len(devices), size)
    return jax.device_put(rows.reshape(*shape, -1), places), jax.device_put(squares.reshape(shape), places)


@partial(jax.jit, static_argnames="count")
def _least(queries: Array, points: Array, squares: Array, *, count: int) -> tuple[Array, Array]:
    """Values and rows [b, count] of queries [b, D] among points [S, P, D] with squared lengths [S, P]."""

    def of_device(part: Array, squares: Array) -> tuple[Array, Array]:
        products = jnp.matmul(queries, part.T, precision=jax.lax.Precision.HIGHEST)
        return _smallest(squares[None, :] - 2 * products, min(count, len(part)))

    values, rows = jax.vmap(of_device)(points, squares)  # [S, b, count]
    rows = rows + points.shape[1] * jnp.arange(len(points))[:, None, None]
    side_by_side = (len(queries), -1)
    values, rows = (jnp.moveaxis(a, 0, 1).reshape(side_by_side) for a in (values, rows))
    return _select(values, rows, count)


def _smallest(values: Array, count: int) -> tuple[Array, Array]:
    """The smallest of values [b, P], with their columns.

    They lie in the `count` chunks whose least values are smallest, so that only these are sorted.
    """
    columns = jnp.broadcast_to(jnp.arange(values.shape[1]), values.shape)
    chunks = values.shape[1] // CHUNK
    if count < chunks // 2:
        table = values.reshape(len(values), chunks, CHUNK)
        _, chosen = jax.lax.top_k(-table.min(-1), count)
        values = jnp.take_along_axis(table, chosen[:, :, None], axis=1).reshape(len(values), -1)
        columns = (CHUNK * chosen[:, :, None] + jnp.arange(CHUNK)).reshape(len(values), -1)
    return _select(values, columns, count)


def _select(values: Array, numbers: Array, count: int) -> tuple[Array, Array]:
    """The smallest of values [b, n] in rising order, and the numbers [b, n] that belong to them."""
    found, places = jax.lax.top_k(-values, count)
    return -found, jnp.take_along_axis(numbers, places, axis=1)
