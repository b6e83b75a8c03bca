"""Data sets of array_record files as tensorflow-datasets writes them, and what every mistake is answered."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxml import data
from jaxml.data.sources import array_record
from tests.data.test_records import CLASSES, encoded, made, prepared


def labelled(labels):
    return {"train": [(encoded(seed), label) for seed, label in enumerate(labels)]}


@pytest.mark.parametrize(
    ("label", "labels", "classes", "expected"),
    [
        (tfds.features.Text(), ["x10", "x9", "x10"], ("x9", "x10"), [1, 0, 1]),
        (tfds.features.Scalar(np.int32), [700, 7, 30], ("7", "30", "700"), [2, 0, 1]),
    ],
    ids=["text", "whole numbers"],
)
def test_labels_may_be_text_or_whole_numbers(tmp_path, label, labels, classes, expected):
    prepared(tmp_path / "birds", labelled(labels), label=label)
    index = array_record.load(str(tmp_path / "birds"))
    assert (index.class_names, index.labels.tolist()) == (classes, expected)


def test_parts_without_records_are_left_out(tmp_path):
    prepared(tmp_path / "birds", {"train": [], **made({"test": CLASSES})})
    assert len(array_record.load(str(tmp_path / "birds")).items) == 21


def test_tensorflow_is_not_loaded(tmp_path):
    """It would take the memory of an accelerator. In a process of its own, for these tests load it."""
    prepared(tmp_path / "birds", made({"train": CLASSES}))
    done = run(
        f"from jaxml.data.sources import array_record\n"
        f"index = array_record.load({str(tmp_path / 'birds')!r})\n"
        f"print(len(index.items), len(index.items[0]), 'tensorflow' in sys.modules)"
    )
    assert done.stdout.split() == ["21", str(len(encoded(0))), "False"], done.stderr


def run(program: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_the_library_one_line_says_what_to_install(tmp_path):
    """In a process of its own, in which it cannot be imported."""
    prepared(tmp_path / "birds", made({"train": CLASSES}))
    done = run(
        f"sys.modules['array_record'] = None\n"
        f"from jaxml.data.sources import array_record\n"
        f"array_record.load({str(tmp_path / 'birds')!r})"
    )
    message = "is read by array_record, which is not installed: `pip install jaxml[array-record]`"
    assert done.stderr.splitlines()[-1].endswith(message)


def write_other_features(folder, **features) -> None:
    folder.mkdir()
    tfds.features.FeaturesDict(features).save_config(folder)
    (folder / "dataset_info.json").write_text(
        '{"name": "birds", "version": "1.0.0", "fileFormat": "array_record"}'
    )


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"picture": tfds.features.Image(), "label": tfds.features.Text()},
            r"the column image is not there, but label, picture; it must hold pictures \(Image\): prepare the data set",
        ),
        (
            {"image": tfds.features.Text(), "label": tfds.features.Text()},
            r"the column image holds Text\(.*\); it must hold pictures \(Image\)",
        ),
        (
            {"image": tfds.features.Image()},
            r"the column label is not there, but image; it must hold a ClassLabel, Text or whole numbers: prepare",
        ),
        (
            {"image": tfds.features.Image(), "label": tfds.features.Scalar(np.float32)},
            r"the column label holds Scalar\(.*\); it must hold a ClassLabel, Text or whole numbers",
        ),
        (
            {"image": tfds.features.Image(), "label": tfds.features.Tensor(shape=(2,), dtype=np.int64)},
            r"the column label holds Tensor\(.*\); it must hold a ClassLabel, Text or whole numbers",
        ),
    ],
)
def test_other_features_are_refused(tmp_path, monkeypatch, features, message):
    monkeypatch.chdir(tmp_path)
    write_other_features(tmp_path / "birds", **features)
    with pytest.raises(ValueError, match=rf"^--data\.root 'birds': {message}") as caught:
        array_record.load("birds")
    assert len(str(caught.value).splitlines()) == 1


def test_a_data_set_without_records_is_refused(tmp_path):
    prepared(tmp_path / "birds", {"train": []})
    with pytest.raises(
        ValueError, match=r"^--data\.root '.*birds' has no records; give a data set with pictures"
    ):
        array_record.load(str(tmp_path / "birds"))


@pytest.mark.parametrize("root", ["", "gone", "."])
def test_a_root_that_is_no_prepared_data_set(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=rf"^--data\.root '{root}' holds no dataset_info\.json; give the folder of a"
    ):
        array_record.load(root)


def test_files_of_another_format_are_refused(tmp_path):
    prepared(tmp_path / "birds", made({"train": CLASSES}), file_format="tfrecord")
    with pytest.raises(
        ValueError, match=r"birds' is prepared as tfrecord; prepare it again with file_format='array_rec"
    ):
        array_record.load(str(tmp_path / "birds"))


def torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [torn, flipped, Path.unlink])
def test_damaged_files_name_the_record(tmp_path, damage):
    folder = tmp_path / "birds"
    prepared(folder, made({"train": CLASSES}))
    damage(sorted(folder.glob("*array_record*"))[1])
    message = r"^--data\.root '.*birds': the record train/4 cannot be read: .*\. Restore its file\.$"
    with pytest.raises(data.ImageError, match=message) as caught:
        array_record.load(str(folder))
    assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_description_is_refused(tmp_path):
    folder = tmp_path / "birds"
    prepared(folder, made({"train": CLASSES}))
    (folder / "features.json").write_text("{")
    with pytest.raises(
        ValueError, match=r"birds' cannot be read by tensorflow-datasets \(\w+: .*\); prepare it again"
    ):
        array_record.load(str(folder))
