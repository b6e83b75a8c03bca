"""Data sets that tensorflow-datasets has prepared as array_record files, whose records are read in any order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from jaxml.data.index import ImageError, Index
from jaxml.data.sources import records
from jaxml.files import expand, printable


def load(root: str) -> Index:
    """Every picture of the features `image` and `label`, of all parts together; see `records.index`.

    Pictures stay encoded as they are, and each is read from its file when it is needed; no other feature is decoded.
    Tensorflow is not loaded.

    Args:
        root: the folder with `dataset_info.json` and `features.json`.

    Raises:
        ValueError: there is no such data set, its files are of another format, or its features are others.
        ImportError: the library array_record is not installed (extra `array-record`).
    """
    builder = _builder(root)
    import tensorflow_datasets as tfds

    features = dict(sorted(builder.info.features.items()))  # their file has no order
    label = _label(root, features)
    # Of the other features, some may take long to decode, or need libraries that are not there.
    wanted = tfds.features.FeaturesDict({"image": features["image"], "label": label})
    filled = {part: part for part, info in builder.info.splits.items() if info.num_examples}
    sources = builder.as_data_source(filled, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    return records.index(
        root,
        {part: _records(root, part, source, wanted) for part, source in sources.items()},
        label.names if isinstance(label, tfds.features.ClassLabel) else None,
    )


def _builder(root: str) -> Any:
    """What opens the data set in a folder."""
    folder = expand(root, "--data.root")
    if not root or not (folder / "dataset_info.json").is_file():
        raise ValueError(
            f"--data.root {root!r} holds no dataset_info.json; give the folder of a version of a data set that "
            f"tensorflow-datasets has prepared, such as birds/1.0.0"
        )
    if find_spec("array_record") is None:
        raise ImportError(
            f"--data.root {root!r} is read by array_record, which is not installed: `pip install jaxml[array-record]`"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # of many kinds, which the library does not list
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split()))
        raise ValueError(
            f"--data.root {root!r} cannot be read by tensorflow-datasets ({reason}); prepare it again"
        ) from error
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"--data.root {root!r} is prepared as {builder.info.file_format.value}; prepare it again with "
            f"file_format='array_record'"
        )
    return builder


def _label(root: str, features: Mapping[str, Any]) -> Any:
    """The feature label.

    Raises:
        ValueError: it holds no classes, or the feature image no pictures.
    """
    import tensorflow_datasets as tfds

    if not isinstance(features.get("image"), tfds.features.Image):
        raise records.refused(
            root, "image", features, "pictures (Image): prepare the data set with such a feature"
        )
    label = features.get("label")
    whole = (
        isinstance(label, tfds.features.Tensor)
        and label.shape == ()
        and np.issubdtype(label.np_dtype, np.integer)
    )
    if not whole and not isinstance(label, tfds.features.Text):
        raise records.refused(
            root,
            "label",
            features,
            "a ClassLabel, Text or whole numbers: prepare the data set with such a feature",
        )
    return label


def _records(root: str, part: str, source: Any, wanted: Any) -> records.Part:
    """The records of a part, whose pictures are left encoded.

    Raises:
        ImageError: one cannot be read.
    """
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}

    def example(i: int) -> Any:
        try:
            found = wanted.deserialize_example_np(source[i], decoders=decoders)
            if None in found.values():
                raise ValueError("it lacks image or label")
            return found
        except Exception as error:  # of many kinds, which the libraries do not list
            reason = printable(" ".join(str(error).split()))
            raise ImageError(
                f"--data.root {root!r}: the record {part}/{i} cannot be read: {reason}. Restore its file."
            ) from error

    def read(i: int) -> bytes:
        return bytes(example(i)["image"])

    labels = (example(i)["label"] for i in range(len(source)))
    return records.Part(
        labels=[label.decode() if isinstance(label, bytes) else int(label) for label in labels], read=read
    )
