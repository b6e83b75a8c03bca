"""K-means of many points into many clusters: distances on the devices of this process, everything else on the host.

Which cluster a point belongs to is computed in float32 in blocks of one size, and centres are means that the host takes
in float64, so that the clusters do not depend on how many devices there are. Devices of other processes take no part,
so that a process may cluster alone.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Array = jax.Array

BLOCK = 1024
"""Points whose distances to all centres are in memory at once on a device."""
ROUNDS = 512
"""Rounds in which `spread` draws its centres."""
TOLERANCE = 1e-4
"""K-means ends when the squared movement of the centres is below this share of the mean variance of a coordinate."""


def kmeans(x: np.ndarray, centres: np.ndarray, *, iterations: int) -> tuple[np.ndarray, float]:
    """Clusters by Lloyd's iterations from the given centres.

    A cluster that loses all its points moves to the point that is farthest from its centre, as in scikit-learn.

    Args:
        x: float32 [N, D].
        centres: float32 [C, D].
        iterations: at most so many; it ends earlier when the centres come to rest.

    Returns:
        Clusters int32 [N], and the inertia: the sum of the squared distances to the centres.

    Source: Lloyd 1982.

    Example:
        >>> x = np.array([[0.0], [0.2], [5.0], [5.2]], np.float32)
        >>> clusters, inertia = kmeans(x, x[:2], iterations=10)
        >>> clusters.tolist(), round(inertia, 3)
        ([0, 0, 1, 1], 0.04)
    """
    points = Points(x)
    limit = TOLERANCE * float(np.var(x.astype(np.float64), axis=0).mean())
    clusters, distances = points.nearest(centres)
    for _ in range(iterations):
        moved = _means(x, clusters, distances, centres)
        shift = float(np.square(moved.astype(np.float64) - centres).sum())
        centres, before = moved, clusters
        clusters, distances = points.nearest(centres)
        if shift <= limit or np.array_equal(clusters, before):
            break
    return clusters, float(distances.sum(dtype=np.float64))


def spread(x: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Centres [count, D] drawn from the points float32 [N, D] by greedy k-means++, several in a round.

    For each centre 2 + log(count) points are drawn in proportion to their squared distances from the centres of the
    rounds before, and the one is taken that brings the sum of these distances down most, as in scikit-learn. With up
    to ROUNDS centres each round takes one; with more, so many that there are ROUNDS rounds.

    Source: Arthur, Vassilvitskii 2007 (k-means++); rounds as in Bahmani et al. 2012 (arXiv:1203.6402), algorithm 2.

    Example:
        >>> sorted(spread(np.array([[0.0], [0.0], [7.0]], np.float32), 2, seed=0).ravel().tolist())
        [0.0, 7.0]
    """
    rng = np.random.default_rng(seed)
    points = Points(x)
    chosen = [int(rng.integers(len(x)))]
    trials, per_round = 2 + int(np.log(count)), -(-count // ROUNDS)
    distances = points.nearest(x[chosen])[1]
    while len(chosen) < count:
        number = min(per_round, count - len(chosen))
        # The greatest of log weight + Gumbel noise are a draw without replacement in proportion to the weights.
        with np.errstate(divide="ignore"):
            keys = np.log(distances) + rng.gumbel(size=len(x))
        keys[chosen] = -np.inf
        drawn = np.argsort(-keys)[: min(number * trials, len(x) - len(chosen))]
        # Rounds that draw fewer are filled up, so that all have one shape and are compiled once.
        drawn = np.resize(drawn, (trials, per_round))
        inertias = points.inertias(distances, x[drawn.ravel()]).reshape(drawn.shape)
        taken = drawn[inertias.argmin(0), np.arange(per_round)][:number]
        chosen += taken.tolist()
        distances = np.minimum(distances, points.nearest(x[np.resize(taken, per_round)])[1])
    return x[chosen]


class Points:
    """Points float32 [N, D], divided over the devices of this process in blocks."""

    def __init__(self, x: np.ndarray):
        devices = jax.local_devices()
        self.count = len(x)
        blocks = -(-len(x) // (len(devices) * BLOCK))
        filled = np.zeros((len(devices) * blocks * BLOCK, x.shape[1]), np.float32)
        filled[: len(x)] = x
        places = NamedSharding(Mesh(np.array(devices), ("devices",)), PartitionSpec("devices"))
        self.x = jax.device_put(filled.reshape(len(devices), blocks, BLOCK, -1), places)

    def inertias(self, distances: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """The inertia float64 [C] that each of centres [C, D] would leave, added to those that `distances` are from.

        `distances` float32 [N] are the squared distances of the points from the nearest centre there is so far.
        """
        padded = np.zeros(self.x.shape[:3], np.float32)
        padded.reshape(-1)[: self.count] = distances
        blocks = np.asarray(_inertias(self.x, padded, centres), np.float64)
        return np.asarray(blocks.reshape(-1, len(centres)).sum(0))

    def nearest(self, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of centres [C, D] for each point, int32 [N], and the squared distances float32 [N]."""
        clusters, distances = _nearest(self.x, centres)
        return np.asarray(clusters).reshape(-1)[: self.count], np.asarray(distances).reshape(-1)[: self.count]


@jax.jit
def _nearest(x: Array, centres: Array) -> tuple[Array, Array]:
    """The nearest of centres [C, D] to points [S, blocks, b, D], int32 and float32 [S, blocks, b]."""

    def of_block(x: Array) -> tuple[Array, Array]:
        values = _distances(x, centres)
        least = values.min(1)
        # The first column that has the least value; XLA's argmin compares pairs, which is several times slower on CPU.
        columns = jnp.where(values == least[:, None], jnp.arange(len(centres)), len(centres))
        nearest = jnp.minimum(columns.min(1), len(centres) - 1)
        return nearest.astype(jnp.int32), jnp.maximum(least + jnp.square(x).sum(1), 0)

    return jax.vmap(partial(jax.lax.map, of_block))(x)


@jax.jit
def _inertias(x: Array, distances: Array, centres: Array) -> Array:
    """Sums [S, blocks, C] over each block of the distances [S, blocks, b] with each of centres [C, D] added."""

    def of_block(block: tuple[Array, Array]) -> Array:
        x, distances = block
        added = jnp.square(x).sum(1)[:, None] + _distances(x, centres)
        return jnp.minimum(distances[:, None], jnp.maximum(added, 0)).sum(0)

    return jax.vmap(partial(jax.lax.map, of_block))((x, distances))


def _distances(x: Array, centres: Array) -> Array:
    """Squared distances [b, C] of points [b, D] to centres [C, D], less the squared lengths of the points."""
    products = jnp.matmul(x, centres.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.square(centres).sum(1)[None, :] - 2 * products


def _means(x: np.ndarray, clusters: np.ndarray, distances: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Means float32 [C, D] of the points of each cluster; an empty one takes a point that is far from its centre."""
    sizes = np.bincount(clusters, minlength=len(centres))
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        clusters = clusters.copy()
        # A point that is alone in its cluster stays there.
        movable = np.flatnonzero(sizes[clusters] > 1)
        farthest = movable[np.argsort(-distances[movable], kind="stable")]
        for cluster, point in zip(empty, farthest, strict=False):
            if sizes[clusters[point]] > 1:
                sizes[clusters[point]] -= 1
                clusters[point], sizes[cluster] = cluster, 1
    order = np.argsort(clusters, kind="stable")
    full = np.flatnonzero(sizes)
    starts = (np.cumsum(sizes) - sizes)[full]
    means = centres.astype(np.float32).copy()
    means[full] = np.add.reduceat(x[order].astype(np.float64), starts, axis=0) / sizes[full][:, None]
    return means
