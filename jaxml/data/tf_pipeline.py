"""Streaming by tf.data: decodes, crops to boxes and resizes the images asked for. The one file built on tensorflow."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf

from jaxml.config import Data
from jaxml.data.decode import MAX_PIXELS, corners, read
from jaxml.data.index import ImageError, Index

# Before any op: tensorflow would otherwise take the accelerator's memory.
tf.config.set_visible_devices([], "GPU")

WHOLE = np.array([0, 0, 2**30, 2**30], np.int32)  # the corners of a crop that takes all of any image


def _window(corner: Any, shape: Any) -> tuple[Any, Any, Any, Any]:
    """The crop as `decode.decode` makes it: top, left, height, width, within the image."""
    height, width = shape[0], shape[1]
    left, top = tf.clip_by_value(corner[0], 0, width - 1), tf.clip_by_value(corner[1], 0, height - 1)
    right = tf.minimum(tf.maximum(corner[2], left + 1), width)
    bottom = tf.minimum(tf.maximum(corner[3], top + 1), height)
    return top, left, bottom - top, right - left


def _decode(data: Any, corner: Any, size: int) -> Any:
    """Encoded image -> uint8 [size, size, 3]: only the crop is decoded where the format is JPEG."""

    def jpeg() -> Any:
        shape = tf.io.extract_jpeg_shape(data)
        tf.debugging.assert_less_equal(
            tf.reduce_prod(tf.cast(shape[:2], tf.int64)), tf.constant(MAX_PIXELS, tf.int64)
        )
        # The accurate transform is the one that Pillow uses.
        window = tf.stack(_window(corner, shape))
        return tf.image.decode_and_crop_jpeg(data, window, channels=3, dct_method="INTEGER_ACCURATE")

    def other() -> Any:
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        top, left, height, width = _window(corner, tf.shape(image))
        return image[top : top + height, left : left + width]

    image = tf.cond(tf.io.is_jpeg(data), jpeg, other)
    image = tf.image.resize(image, (size, size), "bilinear", antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(image, 0, 255)), tf.uint8)


def batches(index: Index, config: Data, rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Images of the rows asked for: each vector int [b] of `rows` gives one uint8 [b, S, S, 3], in order.

    Nothing is random and nothing kept between batches: to resume, ask for the rows of the steps that remain.
    Files are decoded in parallel and a few batches ahead. All vectors but the last must have the same length.

    Raises ImageError naming the file that cannot be decoded, ValueError for vectors of different lengths.
    """
    ahead: deque[np.ndarray] = deque()  # asked for, not yet delivered
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    crops = corners(index.boxes) if config.crop_to_box and index.boxes is not None else None

    failures: list[Exception] = []

    def encoded() -> Iterator[tuple[list[str | bytes], np.ndarray]]:
        """Runs in tensorflow's thread: paths (read by tensorflow) or bytes, and crops."""
        batch: np.ndarray | None = first
        try:
            while batch is not None:
                following = next(rows, None)
                if len(batch) > len(first) or (len(batch) < len(first) and following is not None):
                    raise ValueError(
                        f"rows: vectors of {len(first)} and {len(batch)}; all must be equally long, but the last"
                    )
                ahead.append(batch)
                whole = np.tile(WHOLE, (len(batch), 1))
                yield [index.items[i] for i in batch], whole if crops is None else crops[batch]
                batch = following
        except Exception as error:  # tensorflow would pass on no more than its text
            failures.append(error)
            raise

    are_paths = isinstance(index.items[0], str)

    def one(item: Any, corner: Any) -> Any:
        return _decode(tf.io.read_file(item) if are_paths else item, corner, config.stored_size)

    signature = (tf.TensorSpec((None,), tf.string), tf.TensorSpec((None, 4), tf.int32))
    dataset = tf.data.Dataset.from_generator(encoded, output_signature=signature).unbatch()
    dataset = dataset.map(one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(len(first)).prefetch(tf.data.AUTOTUNE)
    try:
        for images in dataset.as_numpy_iterator():
            ahead.popleft()
            yield images
    except tf.errors.OpError as error:
        if failures:
            raise failures[0] from None
        for batch in list(ahead):
            for i in batch:
                _explain(index, int(i), config)
        raise ImageError(f"tf.data stopped: {error.message}") from error


def _explain(index: Index, i: int, config: Data) -> None:
    """ImageError naming image i if it cannot be decoded."""
    try:
        _decode(tf.constant(read(index.items[i], index.names[i])), WHOLE, config.stored_size)
    except tf.errors.OpError as error:
        raise ImageError(
            f"image {index.names[i]} cannot be decoded: {error.message}. Replace it by a sound copy, or leave it out "
            f"with --data.on_error skip."
        ) from error
