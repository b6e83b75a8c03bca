"""The streamed input path: tf.data decodes the images asked for, in parallel and ahead."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np

from jaxml.config import Data
from jaxml.data.decode import Decoder
from jaxml.data.index import Index
from jaxml.tensorflow import tf


def batches(index: Index, config: Data, rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the images of each vector int [b] of `rows` as uint8 [b, S, S, 3], in order.

    Nothing is random and nothing is kept between batches: to resume, ask for the rows of the steps that remain. Files
    are decoded by `decode.Decoder`, as for the resident path, by one thread per core and a few batches ahead. All
    vectors but the last must have the same length.

    Raises:
        ImageError: a file cannot be decoded or has changed since the index was made; the message names it.
        ValueError: the vectors have different lengths.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    decoder = Decoder(index, size=config.stored_size, crop_to_box=config.crop_to_box)
    # Exceptions bypass tensorflow, which would log them and pass on only their text.
    failed: dict[int, Exception] = {}  # by place among all images
    refused: list[Exception] = []

    def asked() -> Iterator[np.ndarray]:
        batch: np.ndarray | None = first
        try:
            while batch is not None:
                following = next(rows, None)
                if len(batch) > len(first) or (len(batch) < len(first) and following is not None):
                    raise ValueError(
                        f"rows: vectors of {len(first)} and {len(batch)}; all but the last must be equally long"
                    )
                yield batch
                batch = following
        except Exception as error:
            refused.append(error)

    def pixels(place: np.ndarray, row: np.ndarray) -> np.ndarray:
        try:
            return decoder(int(row))
        except Exception as error:
            failed[int(place)] = error
            return np.zeros((config.stored_size, config.stored_size, 3), np.uint8)

    def one(place: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        image = tf.numpy_function(pixels, (place, row), tf.uint8)
        return tf.ensure_shape(image, (config.stored_size, config.stored_size, 3))

    dataset = tf.data.Dataset.from_generator(asked, output_signature=tf.TensorSpec((None,), tf.int64))
    dataset = dataset.unbatch().enumerate()
    dataset = dataset.map(one, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
    dataset = dataset.batch(len(first)).prefetch(tf.data.AUTOTUNE)
    delivered = 0
    for images in dataset.as_numpy_iterator():
        for place in range(delivered, delivered + len(images)):
            if place in failed:
                raise failed[place]
        delivered += len(images)
        yield images
    if refused:
        raise refused[0]
