"""Data sets of tensorflow-datasets; their train and test images are read together, to be split by class."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from jaxml.data import decode
from jaxml.data.index import ImageError, Index
from jaxml.files import expand

LABELS = {"caltech_birds2011": "label", "cars196": "label", "stanford_online_products": "class_id"}
"""The data sets by name, with the feature that holds the class."""


def _builder(name: str, root: str) -> Any:
    """The builder of a data set: of the prepared copy in `root`, or prepared there from the archives in it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow_datasets as tfds

    folder = expand(root, "--data.root")
    if (folder / "dataset_info.json").exists():
        return tfds.builder_from_directory(folder)
    builder = tfds.builder(name, data_dir=folder if root else None)
    if not builder.is_prepared():
        try:
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
        except Exception as error:
            raise ValueError(
                f"tfds could not prepare {name} in {builder.data_dir}: {error}. Give as --data.root a copy already "
                f"prepared (the folder with dataset_info.json), or a folder with the official archives"
            ) from error
    return builder


def _pixels(box: np.ndarray, data: bytes, name: str) -> tuple[float, float, float, float]:
    """A box float [4] from relative ymin, xmin, ymax, xmax to left, top, width, height in pixels."""
    try:
        width, height = decode.size(data, name)
    except ImageError:
        return 0.0, 0.0, 0.0, 0.0  # `manifest.check` reports what is wrong with the image
    top, left, bottom, right = (float(v) for v in box)
    return left * width, top * height, (right - left) * width, (bottom - top) * height


def load(name: str, root: str) -> Index:
    """Every image of a data set as encoded bytes, in the order of the prepared files.

    Masks and other features are not decoded.

    Args:
        name: a key of LABELS.
        root: a prepared copy, which works offline; or a tfds data folder, in which the data set is prepared the first
            time, from the official archives if they are there.

    Raises:
        ValueError: the data set is not prepared and cannot be, or has fewer images than it should.
    """
    builder = _builder(name, root)
    import tensorflow_datasets as tfds

    features, label = builder.info.features, LABELS[name]
    wanted = {key: features[key] for key in ("image", label, "image/filename", "bbox") if key in features}
    dataset = builder.as_dataset(
        split="all",
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(wanted, decoders={"image": tfds.decode.SkipDecoding()}),
        read_config=tfds.ReadConfig(interleave_cycle_length=1, add_tfds_id=True),
    )
    items, labels, boxes, names = [], [], [], []
    for example in dataset.as_numpy_iterator():
        items.append(example["image"])
        labels.append(example[label])
        names.append(os.fsdecode(example.get("image/filename", example["tfds_id"])))
        if "bbox" in example:
            boxes.append(_pixels(example["bbox"], example["image"], names[-1]))
    if len(items) != (expected := sum(part.num_examples for part in builder.info.splits.values())):
        raise ValueError(
            f"{builder.data_dir} holds {len(items)} images, where its dataset_info.json promises {expected}; "
            f"prepare it again"
        )
    return Index(
        items=items,
        labels=np.array(labels, np.int32),
        boxes=np.array(boxes, np.float32) if boxes else None,
        class_names=tuple(features[label].names),
        names=tuple(names),
    )
