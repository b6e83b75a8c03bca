"""Data sets whose pictures are records: what is the same of Hugging Face datasets and of array_record files."""

import importlib
import io
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxml import data
from jaxml.config import Data
from jaxml.data import resident, streamed
from jaxml.data.images import open_images

CLASSES = ("wren", "robin", "heron", "stork", "class10", "class2", "gull")
"""Not in the order of the alphabet."""
SIDE = 16


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What the library prepares of a folder goes where the test's files are."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "prepared"))
    datasets.disable_progress_bars()


def encoded(seed: int, kind: str = "") -> bytes:
    """A made-up picture as an encoded file; by default PNG and JPEG take turns."""
    out, rng = io.BytesIO(), np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (20 + seed % 3, 24, 3), np.uint8)
    Image.fromarray(pixels).save(out, kind or ("PNG", "JPEG")[seed % 2])
    return out.getvalue()


def made(parts: dict[str, tuple[str, ...]], each: int = 3) -> dict[str, list[tuple[bytes, int]]]:
    """Pictures of the classes of each part in turn, with their numbers in CLASSES."""
    rows = [
        (part, CLASSES.index(name)) for part, names in parts.items() for _ in range(each) for name in names
    ]
    numbered = [(part, (encoded(seed), label)) for seed, (part, label) in enumerate(rows)]
    return {part: [row for of, row in numbered if of == part] for part in parts}


def saved(folder: Path, rows) -> None:
    """Write rows as `datasets` does."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(CLASSES)),
            "note": datasets.Value("string"),
        }
    )
    parts = {
        part: datasets.Dataset.from_dict(
            {
                "image": [{"bytes": picture, "path": None} for picture, _ in found],
                "label": [label for _, label in found],
                "note": ["not read"] * len(found),
            },
            features=features,
        )
        for part, found in rows.items()
    }
    datasets.DatasetDict(parts).save_to_disk(folder)


def prepared(folder: Path, rows, label=None, file_format: str = "array_record") -> None:
    """Write rows as tensorflow-datasets does, several files to a part."""
    folder.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name="birds", version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=""
    )
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "label": label or tfds.features.ClassLabel(names=list(CLASSES))}
    )
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(builder=identity, features=features),
        max_examples_per_shard=4,
        file_format=file_format,
    )
    writer.initialize_splits(list(rows))
    for part, found in rows.items():
        writer.add_examples({part: [{"image": io.BytesIO(picture), "label": k} for picture, k in found]})
    writer.close_all()


WRITERS = {"hugging_face": saved, "array_record": prepared}


@pytest.fixture(params=WRITERS)
def both(request, tmp_path):
    """Each source with its writer, and a folder to write to."""
    return request.param, WRITERS[request.param], tmp_path / "birds"


def config_of(source: str, folder: Path, **options) -> Data:
    options = {"stored_size": SIDE, "size": SIDE, "cache": str(folder.parent / "cache"), **options}
    return Data(source=source, root=str(folder), **options)


def test_pixels_are_those_of_the_encoded_pictures_through_both_paths(both):
    source, write, folder = both
    rows = made({"train": CLASSES, "test": CLASSES})
    write(folder, rows)
    config = config_of(source, folder)
    index = data.load(config)
    pictures = [picture for found in rows.values() for picture, _ in found]
    assert list(index.items) == pictures
    assert index.names[:2] == ("train/0", "train/1")
    assert index.names[-1] == "test/20"
    assert index.labels.tolist() == [label for found in rows.values() for _, label in found]
    assert (index.class_names, index.split) == (CLASSES, "")
    expected = [
        np.asarray(
            Image.open(io.BytesIO(picture)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        )
        for picture in pictures
    ]
    assert np.array_equal(resident.load(index, config), expected)
    order = np.random.default_rng(0).permutation(len(pictures))
    (got,) = streamed.batches(index, config, [order])
    assert np.array_equal(got, np.array(expected)[order])


def test_parts_without_a_common_class_are_the_division(both):
    source, write, folder = both
    write(folder, made({"test": CLASSES[:2], "train": CLASSES[2:]}))
    images = open_images(config_of(source, folder, split="source"))
    assert images.index.class_names == ("heron", "stork", "class10", "class2", "gull", "wren", "robin")
    named = {part: [images.index.class_names[k] for k in found] for part, found in images.parts.items()}
    assert named == {
        "train": ["heron", "stork", "class10", "class2"],
        "val": ["gull"],
        "test": ["wren", "robin"],
    }
    assert [images.index.names[i] for i in images.rows("test")] == [f"test/{i}" for i in range(6)]


@pytest.mark.parametrize(
    "parts",
    [
        {"train": CLASSES, "test": CLASSES[:1]},
        {"train": CLASSES},
        {"train": CLASSES[:5], "unseen": CLASSES[5:]},
        {"validation": CLASSES[:5], "test": CLASSES[5:]},
    ],
    ids=["a class in two parts", "one part", "a part of another name", "nothing to train on"],
)
def test_other_parts_are_no_division(both, parts):
    source, write, folder = both
    write(folder, made(parts, each=1))
    index = data.SOURCES[source](str(folder))
    assert (index.split, index.class_names) == ("", CLASSES)
    with pytest.raises(
        ValueError, match=r"^--data\.split source: the data set states no division of its classes"
    ):
        open_images(config_of(source, folder, split="source"))


def test_classes_without_a_picture_are_left_out(both):
    source, write, folder = both
    write(folder, made({"train": ("gull", "robin")}))
    index = data.SOURCES[source](str(folder))
    assert (index.class_names, index.labels.tolist()) == (("robin", "gull"), [1, 0] * 3)


def test_a_damaged_picture_is_named_or_left_out(both):
    source, write, folder = both
    rows = made({"train": CLASSES})
    rows["train"][4] = (rows["train"][4][0][:60], 4)
    write(folder, rows)
    with pytest.raises(
        data.ImageError, match=r"^1 image\(s\) cannot be used: image train/4 cannot be decoded as"
    ):
        data.load(config_of(source, folder))
    with pytest.warns(UserWarning, match=r"1 image\(s\) left out"):
        index = data.load(config_of(source, folder, on_error="skip"))
    assert len(index.items) == 20
    assert "train/4" not in index.names


def test_a_picture_that_has_changed_is_named(both):
    source, write, folder = both
    rows = made({"train": CLASSES})
    write(folder, rows)
    data.load(config_of(source, folder))
    rows["train"][9] = (encoded(100), rows["train"][9][1])
    shutil.rmtree(folder)
    write(folder, rows)
    with pytest.raises(data.ImageError, match="image train/9 has changed since this data set was first read"):
        data.load(config_of(source, folder))


def test_a_run_is_trained_and_scored(both):
    source, write, folder = both
    write(folder, made({"train": CLASSES[:5], "test": CLASSES[5:]}))
    run = folder.parent / "run"
    words = (
        f"--data.source {source} --data.root {folder} --data.split source --data.cache {folder.parent}/cache "
        "--data.stored_size 24 --data.size 20 --data.classes_per_batch 4 --data.images_per_class 2 "
        "--model.feature_size 8 --train.steps 2 --train.devices 1 --eval.batch_size 16 --eval.kmeans_seeds 1"
    )
    importlib.import_module("jaxml.commands.train").main([*words.split(), "--workdir", str(run)])
    assert json.loads((run / "results.json").read_text())
    lines = (run / "data.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == list(CLASSES)
    assert json.loads(lines[-1])[0] == "test/5"
