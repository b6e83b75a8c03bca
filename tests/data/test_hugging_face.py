"""Data sets of the library `datasets`: columns, folders, the hub, and what every mistake is answered."""

import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from jaxml import config as configs
from jaxml import data
from jaxml.config import Data
from jaxml.data import manifest, resident
from jaxml.data.sources import hugging_face
from jaxml.training import start
from tests.data.test_records import SIDE, config_of, encoded, own_cache  # noqa: F401


def test_a_folder_of_folders_is_read_as_load_dataset_does(tmp_path):
    for k, name in enumerate(("b", "a", "c")):
        for i in range(2):
            path = tmp_path / "birds" / name / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(10 * k + i, "JPEG"))
    index = data.load(config_of("hugging_face", tmp_path / "birds"))
    assert index.class_names == ("a", "b", "c")
    assert index.names[:3] == ("train/0 (0.jpg)", "train/1 (1.jpg)", "train/2 (0.jpg)")
    assert index.items[0] == str(tmp_path / "birds/a/0.jpg")
    assert resident.load(index, config_of("hugging_face", tmp_path / "birds")).shape == (6, SIDE, SIDE, 3)


def table_of(**columns) -> datasets.Dataset:
    images = [{"bytes": encoded(i), "path": f"pictures/{i}.png"} for i in range(4)]
    features = datasets.Features({"image": datasets.Image()})
    made = datasets.Dataset.from_dict({"image": images}, features=features)
    for name, values in columns.items():
        made = made.add_column(name, values)
    return made


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (["x10", "x9", "x9", "x10"], ("x9", "x10"), [1, 0, 0, 1]),
        ([700, 7, 30, 7], ("7", "30", "700"), [2, 0, 1, 0]),
    ],
    ids=["text", "whole numbers"],
)
def test_labels_may_be_text_or_whole_numbers(tmp_path, labels, classes, expected):
    (tmp_path / "birds").mkdir()
    table_of(label=labels).to_parquet(tmp_path / "birds/train.parquet")
    index = hugging_face.load(str(tmp_path / "birds"))
    assert (index.class_names, index.labels.tolist()) == (classes, expected)
    assert index.names[1] == "train/1 (1.png)"
    assert index.items[1] == encoded(1)


def test_rows_and_formats_that_were_chosen_before_saving_are_kept(tmp_path):
    chosen = table_of(label=["a", "b", "c", "d"]).select([3, 1]).with_format("numpy")
    chosen.save_to_disk(tmp_path / "birds")
    index = hugging_face.load(str(tmp_path / "birds"))
    assert list(index.items) == [encoded(3), encoded(1)]
    assert (index.names, index.class_names) == (("all/0 (3.png)", "all/1 (1.png)"), ("b", "d"))


def without_picture() -> datasets.Dataset:
    return table_of(label=list("aabb")).map(
        lambda row, i: {"image": None if i == 2 else row["image"]}, with_indices=True
    )


def test_a_record_without_a_picture_is_named(tmp_path):
    without_picture().save_to_disk(tmp_path / "birds")
    with pytest.raises(
        data.ImageError, match=r"^1 image\(s\) cannot be used: image all/2 is empty\. Replace it"
    ):
        data.load(config_of("hugging_face", tmp_path / "birds"))


MADE = "rename_column or cast_column makes such a one, and save_to_disk keeps it"
TABLES = {
    "no pictures": (
        lambda: table_of(label=list("aabb")).rename_column("image", "img"),
        rf"the column image is not there, but img, label; it must hold pictures \(Image\): {MADE}",
    ),
    "pictures as text": (
        lambda: datasets.Dataset.from_dict({"image": ["a.png"], "label": ["a"]}),
        r"the column image holds Value\('string'\); it must hold pictures \(Image\)",
    ),
    "no classes": (
        lambda: table_of(name=list("aabb")),
        r"the column label is not there, but image, name; it must hold a ClassLabel, text or whole numbers",
    ),
    "classes that are shares": (
        lambda: table_of(label=[0.5] * 4),
        r"the column label holds Value\('float64'\); it must hold a ClassLabel, text",
    ),
    "several classes": (
        lambda: table_of(label=[["a"]] * 4),
        r"the column label holds List\(Value\('string'\)\); it must hold a ClassLabel, text",
    ),
    "a record without class": (
        lambda: table_of(label=["a", "b", None, "b"]),
        r"the record all/2 \(2\.png\) has no class, its label is None; keep only records that have one",
    ),
    "a record of no known class": (
        lambda: table_of(label=[0, 1, 1, -1]).cast_column("label", datasets.ClassLabel(names=["a", "b"])),
        r"the record all/3 \(3\.png\) has no class, its label is -1; keep",
    ),
    "no parts": (lambda: datasets.DatasetDict(), "has no records; give a data set with pictures"),
    "no records": (
        lambda: table_of(label=list("aabb")).select([]),  # which the library saves and cannot read
        r"cannot be read by datasets \(IndexError: .*\); give a data set with records that its load_from_disk",
    ),
    "parts of different types": (
        lambda: datasets.DatasetDict(
            {"train": table_of(label=list("aabb")), "test": table_of(label=[1, 1, 2, 2])}
        ),
        r"the column label differs between the parts train, test; cast it to one type",
    ),
}


@pytest.mark.parametrize("mistake", TABLES)
def test_a_mistake_in_the_columns_is_answered_by_one_line(tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    make, message = TABLES[mistake]
    make().save_to_disk("birds")
    with pytest.raises(ValueError, match=rf"^--data\.root 'birds':? {message}") as caught:
        hugging_face.load("birds")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("root", ["", "gone", "owner/name", "hf://name", "hf://owner/name@"])
def test_a_root_that_is_no_data_set(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    message = "is not a folder; give one that save_to_disk wrote or load_dataset reads, or hf://owner/name or"
    with pytest.raises(ValueError, match=rf"^--data\.root '{re.escape(root)}' {message}"):
        hugging_face.load(root)


def damage(folder: Path, what: str) -> None:
    if what == "records":
        (file,) = folder.glob("*.arrow")
        file.write_bytes(file.read_bytes()[:-2000])
    else:
        (folder / "state.json").write_text("{")


@pytest.mark.parametrize("what", ["records", "state", "nothing in it"])
def test_damaged_folders(tmp_path, what):
    folder = tmp_path / "birds"
    folder.mkdir()
    if what != "nothing in it":
        table_of(label=list("aabb")).save_to_disk(folder)
        damage(folder, what)
    message = r"^--data\.root '.*birds' cannot be read by datasets \(\w+Error: .*\); give a data set with records that"
    with pytest.raises(ValueError, match=message) as caught:
        hugging_face.load(str(folder))
    assert len(str(caught.value).splitlines()) == 1


def test_without_the_library_one_line_says_what_to_install():
    """In a process of its own, in which it cannot be imported."""
    program = (
        "import sys; sys.modules['datasets'] = None\n"
        "from jaxml.data.sources import hugging_face\n"
        "hugging_face.load('hf://owner/name')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    message = "--data.root 'hf://owner/name' is read by datasets, which is not installed: `pip install jaxml[datasets]`"
    assert done.stderr.splitlines()[-1] == f"ImportError: {message}"


@pytest.fixture
def hub(monkeypatch):
    """What the hub was asked for, in a hub that has one data set."""
    asked = []

    def load_dataset(path, revision=None):
        asked.append((path, revision))
        if path != "owner/birds":
            raise ConnectionError(f"Couldn't reach '{path}'\non the Hub")
        return datasets.DatasetDict({"train": table_of(label=list("abcb"))})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_an_address_names_a_data_set_of_the_hub(hub):
    assert hugging_face.load("hf://owner/birds").class_names == ("a", "b", "c")
    hugging_face.load("hf://owner/birds@refs/convert/parquet")
    assert hub == [("owner/birds", None), ("owner/birds", "refs/convert/parquet")]
    message = r"^--data\.root 'hf://owner/gone' cannot be read by datasets \(ConnectionError: Couldn't .* on the Hub\)"
    with pytest.raises(ValueError, match=message):
        hugging_face.load("hf://owner/gone")


def test_an_address_is_the_same_from_every_folder(hub, tmp_path, monkeypatch):
    config = configs.Config(
        data=Data(source="hugging_face", root="hf://owner/birds", cache=str(tmp_path / "cache"))
    )
    found = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        whole = start.from_anywhere(config)
        assert whole.data.root == "hf://owner/birds"
        assert len(data.load(whole.data).items) == 4
        found.add(manifest.file(whole.data))
    assert [str(path) for path in found] == [
        str(path) for path in (tmp_path / "cache").glob("*.manifest.json")
    ]
