"""The compiled network: any number of pictures, in batches of a few sizes, each of which is compiled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SMALLEST = 2
"""Pictures that a device embeds at once, at least: programs for one differ from those for more by their rounding."""
STEP = 4
"""Factor from one size of a batch to the next."""
LARGEST = {"cpu": 8}
"""Pictures that a device embeds at once, at most, by platform: larger batches are slower on a CPU."""


class Program:
    """A function on batches, compiled for a few sizes and divided among the devices of this process.

    Args:
        function: (variables, pixels uint8 [b, S, S, 3]) -> embeddings float32 [b, D].
        variables: its first argument.
        batch_size: pictures at a time, at most, over all devices.
    """

    def __init__(self, function: Callable[[Any, jax.Array], jax.Array], variables: Any, batch_size: int):
        devices = jax.local_devices()
        mesh = Mesh(np.array(devices), ("batch",))
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._divided = NamedSharding(mesh, PartitionSpec("batch"))
        self._variables = jax.device_put(variables, everywhere)
        self._call = jax.jit(function, out_shardings=self._divided)
        share = min(batch_size // len(devices), LARGEST.get(devices[0].platform, batch_size))
        self.sizes = [size * len(devices) for size in _sizes(share)]
        """Pictures in a batch, ascending."""

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Embeddings float32 [n, D] of pixels uint8 [n, S, S, 3]; of the smallest batch, what is missing is padded."""
        return np.concatenate(list(self.stream(pixels)))

    def stream(self, pixels: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield embeddings float32 [b, D], batch by batch, of pictures uint8 [S, S, 3], in order.

        A batch is computed while the next one is read.
        """
        running: tuple[jax.Array, int] | None = None
        for batch in self._batches(pixels):
            missing = max(0, self.sizes[0] - len(batch))
            full = np.pad(np.stack(batch), ((0, missing), (0, 0), (0, 0), (0, 0)))
            started = self._call(self._variables, jax.device_put(full, self._divided)), len(batch)
            if running:
                yield np.asarray(running[0])[: running[1]]
            running = started
        if running:
            yield np.asarray(running[0])[: running[1]]

    def _batches(self, pixels: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """Divide pictures into batches of the sizes there are, the largest first; only the last may be smaller."""
        batch: list[np.ndarray] = []
        for image in pixels:
            batch.append(image)
            if len(batch) == self.sizes[-1]:
                yield batch
                batch = []
        while batch:
            size = max((size for size in self.sizes if size <= len(batch)), default=len(batch))
            yield batch[:size]
            batch = batch[size:]


def _sizes(largest: int) -> list[int]:
    """SMALLEST, and its multiples by powers of STEP up to `largest`.

    Example:
        >>> _sizes(256), _sizes(1)
        ([2, 8, 32, 128], [2])
    """
    sizes = [SMALLEST]
    while sizes[-1] * STEP <= largest:
        sizes.append(sizes[-1] * STEP)
    return sizes
