"""Data sets that a table lists: what is read from CSV and Parquet, and what every mistake in a table is answered."""

import csv
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from jaxml import data
from jaxml.commands.tune import without_test_classes
from jaxml.config import Config, Data
from jaxml.data.images import open_images
from jaxml.data.sources import table
from jaxml.training import provenance

WIDTH, HEIGHT = 12, 10
CLASSES = ("class10", "class2", "class1", "class7", "class3", "class20")


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pictures of each class: images/<class>_<0 or 1>.png."""
    top = tmp_path_factory.mktemp("tables")
    for k, name in enumerate(CLASSES):
        for i in range(2):
            draw(top / "images" / f"{name}_{i}.png", 2 * k + i)
    return top


def rows_of(**columns):
    """Rows of all pictures as dicts: path, label, and a value of each column for each class."""
    return [
        {
            "path": f"images/{name}_{i}.png",
            "label": name,
            **{key: values[k] for key, values in columns.items()},
        }
        for k, name in enumerate(CLASSES)
        for i in range(2)
    ]


def write_csv(path: Path, rows) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_parquet(path: Path, rows) -> str:
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


SPLIT = ("test", "train", "val", "test", "train", "train")


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_classes_are_in_natural_order(folder, write):
    index = table.load(write(folder / f"plain.{write.__name__[6:]}", rows_of()))
    assert index.class_names == ("class1", "class2", "class3", "class7", "class10", "class20")
    assert index.labels.tolist() == [4, 4, 1, 1, 0, 0, 3, 3, 2, 2, 5, 5]
    assert index.names[:3] == ("images/class10_0.png", "images/class10_1.png", "images/class2_0.png")
    assert index.items[2] == str(folder / "images/class2_0.png")
    assert (index.boxes, index.split, index.retrieval) == (None, "", data.Retrieval())
    assert index.places[2].endswith(", row 4, column path")


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_column_split_orders_the_classes_by_part(folder, write):
    root = write(folder / f"split.{write.__name__[6:]}", rows_of(split=SPLIT))
    index = table.load(root)
    assert index.class_names == ("class2", "class3", "class20", "class1", "class7", "class10")
    config = Data(
        source="table", root=root, split="source", cache=str(folder / "cache"), stored_size=8, size=8
    )
    images = open_images(config)
    named = {part: [index.class_names[k] for k in images.parts[part]] for part in images.parts}
    assert named == {
        "train": ["class2", "class3", "class20"],
        "val": ["class1"],
        "test": ["class7", "class10"],
    }
    assert [index.names[i] for i in images.rows("val")] == ["images/class1_0.png", "images/class1_1.png"]
    for part in ("train", "val", "test"):
        parts = {SPLIT[CLASSES.index(index.class_names[index.labels[i]])] for i in images.rows(part)}
        assert parts == {part}


def test_without_a_part_val_the_last_fifth_of_train_validates(folder):
    index = table.load(write_csv(folder / "no_val.csv", rows_of(split=["train"] * 5 + ["test"])))
    assert index.class_names == ("class1", "class2", "class3", "class7", "class10", "class20")
    assert index.split == "0-3/4-4/5-5"
    # OpenMetricLearning calls the second part validation, and knows no third.
    index = table.load(write_csv(folder / "oml.csv", rows_of(split=["train"] * 4 + ["validation"] * 2)))
    assert index.split == "0-3/4-5"


def test_a_division_by_shares_is_warned_of_where_the_table_states_one(folder):
    root = write_csv(folder / "warned.csv", rows_of(split=SPLIT))
    config = Data(source="table", root=root, cache=str(folder / "cache"), stored_size=8, size=8)
    with pytest.warns(UserWarning, match=r"--data\.split poster divides .* --data\.split source takes"):
        open_images(config)
    open_images(dataclasses.replace(config, split="0-1/2-3/4-5"))
    plain = dataclasses.replace(config, root=write_csv(folder / "unsplit.csv", rows_of()))
    with pytest.raises(ValueError, match=r"^--data\.split source: the data set states no division"):
        open_images(dataclasses.replace(plain, split="source"))


def test_tuning_sees_no_test_class_of_the_stated_division(folder):
    root = write_csv(folder / "tuned.csv", rows_of(split=SPLIT))
    config = Config(data=Data(source="table", root=root, split="source", cache=str(folder / "cache")))
    blind = without_test_classes(config)
    assert blind.data.split == "0-2/3-3"


def test_a_run_notices_that_a_class_changed_its_part(folder):
    """The names and labels are the same: the class that was the last of train is the first of val."""

    def pictures(split):
        root = write_csv(folder / "moved.csv", rows_of(split=split))
        return provenance.Pictures.of(data.load(Data(source="table", root=root, cache=str(folder / "cache"))))

    train = ["train"] * 5 + ["val"]  # in natural order the last is class20, and before it class10
    before, after = pictures(train), pictures(["val", *train[1:]])
    assert before.lines[0] == after.lines[0]
    assert before.lines[1].endswith(', "train"]')
    assert before.fingerprint["sha256"] != after.fingerprint["sha256"]
    unsplit = write_csv(folder / "moved.csv", rows_of())
    lines = provenance.Pictures.of(
        data.load(Data(source="table", root=unsplit, cache=str(folder / "cache")))
    ).lines
    assert [len(json.loads(line)) for line in lines[1:]] == [4] * 12


def boxes_as(columns, box):
    """The columns of the same box left, top, width, height for every class."""
    left, top, width, height = box
    values = (left, top, left + width, top + height) if columns == table.CORNERS else box
    return {column: [value] * len(CLASSES) for column, value in zip(columns, values, strict=True)}


@pytest.mark.parametrize("columns", [table.CORNERS, table.BOX])
@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_boxes_of_both_kinds(folder, write, columns):
    root = write(folder / f"boxes.{write.__name__[6:]}", rows_of(**boxes_as(columns, (2, 3, 6.5, 4))))
    index = table.load(root)
    assert index.boxes.dtype == np.float32
    assert index.boxes.tolist() == [[2, 3, 6.5, 4]] * 12


def test_sizes_of_pictures_are_no_boxes(folder):
    rows = rows_of(width=[WIDTH] * 6, height=[HEIGHT] * 6)
    assert table.load(write_csv(folder / "sizes.csv", rows)).boxes is None


def test_several_boxes_of_one_picture_have_names_of_their_own(folder):
    row = {"path": "images/class1_0.png", "label": "bird", "left": 0, "top": 0, "width": 4, "height": 5}
    rows = [row, {**row, "left": 6}, {**row, "path": "images/class1_1.png"}]
    root = write_csv(folder / "several.csv", rows)
    names = (
        "images/class1_0.png [0, 0, 4, 5]",
        "images/class1_0.png [6, 0, 4, 5]",
        "images/class1_1.png",
    )
    index = data.load(Data(source="table", root=root, cache=str(folder / "cache")))
    assert index.names == names
    assert index.hashes[0] == index.hashes[1] != index.hashes[2]


def test_boxes_beyond_the_edge_are_counted_in_a_warning(folder):
    rows = rows_of(**boxes_as(table.BOX, (4, 3, WIDTH - 4 + 1, 5)))  # by one pixel, as rounding makes them
    assert table.load(write_csv(folder / "beyond.csv", rows)).boxes[5].tolist() == [4, 3, 9, 5]
    rows[4]["width"] = rows[7]["width"] = 11
    with pytest.warns(UserWarning, match=r"^2 box\(es\) reach beyond .* beyond\.csv, row 6$"):
        table.load(write_csv(folder / "beyond.csv", rows))


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_what_protocols_of_retrieval_need_is_kept(folder, write):
    """None in a table of OpenMetricLearning stands for rows of train, which are neither queries nor gallery."""
    test = [part == "test" for part in SPLIT]
    rows = rows_of(
        split=SPLIT,
        is_query=[True if part == "test" else None for part in SPLIT],
        is_gallery=[part != "train" if part != "val" else None for part in SPLIT],
        category=["a", "b", "", "a", "b", "c"],
        sequence=[1, 2, 3, 1, 2, 3],
    )
    index = table.load(write(folder / f"retrieval.{write.__name__[6:]}", rows))
    found = index.retrieval
    assert found.is_query.tolist() == np.repeat(test, 2).tolist()
    assert found.is_gallery.tolist() == np.repeat(test, 2).tolist()
    assert found.categories == tuple(np.repeat(["a", "b", "", "a", "b", "c"], 2))
    assert found.sequences == tuple(np.repeat(["1", "2", "3", "1", "2", "3"], 2))
    some = index.take(np.array([11, 0])).retrieval
    assert (some.is_query.tolist(), some.categories, some.sequences) == (
        [False, True],
        ("c", "a"),
        ("3", "1"),
    )


def test_numbers_are_classes_in_csv_and_parquet_alike(folder):
    rows = [{**row, "label": 100 - len(row["path"])} for row in rows_of()]
    first, second = (
        table.load(write_csv(folder / "n.csv", rows)),
        table.load(write_parquet(folder / "n.parquet", rows)),
    )
    assert first.class_names == second.class_names == ("80", "81")
    assert first.labels.tolist() == second.labels.tolist()


def test_categories_of_pandas_are_text(folder):
    """Columns of few different values, which pandas writes as dictionaries."""
    rows = rows_of(split=SPLIT)
    columns = {key: pa.array([row[key] for row in rows]).dictionary_encode() for key in rows[0]}
    parquet.write_table(pa.table(columns), folder / "dictionaries.parquet")
    index = table.load(str(folder / "dictionaries.parquet"))
    assert index.split == "0-2/3-3/4-5"


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_csv_as_spreadsheets_write_it(folder, start):
    """A byte order mark, line ends of Windows, cells in quotation marks, empty rows, other columns and text."""
    draw(folder / "a, b" / "ü.png", 0)
    text = (
        'note,path,label\r\n"two\r\nlines","a, b/ü.png","Grün, hell"\r\n\r\n,images/class1_0.png,x\r\n,,\r\n'
    )
    (folder / "excel.csv").write_bytes(start + text.encode())
    index = table.load(str(folder / "excel.csv"))
    assert index.names == ("a, b/ü.png", "images/class1_0.png")
    assert index.class_names == ("Grün, hell", "x")
    assert [place.split(", ")[1] for place in index.places] == ["row 2", "row 4"]


def test_a_missing_picture_with_a_box_is_named_by_its_row(folder):
    rows = rows_of(**boxes_as(table.BOX, (2, 3, 6, 4)))
    rows[3] |= {"path": "images/gone.png", "left": -20}
    root = write_csv(folder / "gone.csv", rows)
    with pytest.raises(data.ImageError, match=r"gone\.csv, row 5, column path: cannot read image"):
        data.load(Data(source="table", root=root, cache=str(folder / "cache")))


def test_damaged_and_missing_pictures_are_named_by_their_rows(folder):
    (folder / "images" / "broken.png").write_bytes(b"no picture")
    rows = rows_of()
    rows[3]["path"], rows[7]["path"] = "images/broken.png", "images/gone.png"
    config = Data(
        source="table", root=write_csv(folder / "damaged.csv", rows), cache=str(folder / "other_cache")
    )
    with pytest.raises(data.ImageError) as caught:
        data.load(config)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert "damaged.csv, row 5, column path: image images/broken.png cannot be decoded" in said
    assert re.search(r"damaged\.csv, row 9, column path: cannot read image .*gone\.png: No such file", said)
    assert "--data.on_error skip" in said
    with pytest.warns(UserWarning, match=r"2 image\(s\) left out"):
        assert len(data.load(dataclasses.replace(config, on_error="skip")).items) == 10


def test_the_table_of_the_documentation(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")
    text = re.search(r"^```text\n(.*?)^```$", page, re.S | re.M).group(1)
    (tmp_path / "birds.csv").write_text(text, encoding="utf-8")
    (tmp_path / "birds").mkdir()
    for number in range(1, 8):
        Image.new("RGB", (100, 80)).save(tmp_path / "birds" / f"{number:04d}.jpg")
    # One class cannot be divided into train and val, but there are rows of validation.
    index = table.load(str(tmp_path / "birds.csv"))
    assert (index.class_names, index.split) == (("robin", "heron", "wren"), "0-0/1-1/2-2")
    assert index.boxes[3].tolist() == [15, 0, 55.5, 64]
    assert index.retrieval.is_query.tolist() == [False, False, True, True, True, False, False]
    assert index.retrieval.sequences[-2:] == ("film 1", "film 2")
    rows = re.findall(r"^\| (`.*?) \|", page, re.M)
    assert {name for row in rows for name in re.findall("`([a-z_0-9]+)`", row)} == {*table.COLUMNS}


def at(row, **cells):
    """A change of one row of the list, which begins with row 2."""

    def change(rows):
        rows[row - 2].update(cells)
        return rows

    return change


def without(column):
    return lambda rows: [{key: value for key, value in row.items() if key != column} for row in rows]


FULL = {
    "split": SPLIT,
    **boxes_as(table.CORNERS, (2, 3, 6, 4)),
    "is_query": [str(part == "test") for part in SPLIT],
    "is_gallery": [str(part == "test") for part in SPLIT],
}
MISTAKES = {
    "no path": (without("path"), r"row 1: there is no column path; a table needs the columns path and label"),
    "no label": (without("label"), r"row 1: there is no column label;"),
    "empty path": (at(4, path=""), r"row 4, column path: the cell is empty; fill it"),
    "empty label": (at(13, label=""), r"row 13, column label: the cell is empty; fill it"),
    "label with a space": (at(3, label="class10 "), r"row 3, column label: 'class10 ' begins or ends with"),
    "empty split": (at(5, split=""), r"row 5, column split: the cell is empty"),
    "unknown part": (at(5, split="dev"), r"row 5, column split: 'dev' is no part; write train, val,"),
    "class in two parts": (
        at(5, split="test"),
        r"row 5, column split: class class2 is in test, but \S+, row 4, column split has it in train; all images",
    ),
    "nothing to learn from": (
        lambda rows: [{**row, "split": "test"} for row in rows],
        r"column split: train has 0 classes and val none: it needs at least 1",
    ),
    "half a box": (without("y_2"), r"row 1: there is no column y_2; boxes need x_1, y_1, x_2, y_2"),
    "two kinds of boxes": (
        lambda rows: [{**row, "left": 0, "top": 0, "width": 2, "height": 2} for row in rows],
        r"row 1: there are boxes by x_1, .* and by left, .*; remove",
    ),
    "empty cell of a box": (at(6, y_1=""), r"row 6, column y_1: the cell is empty; give every row a box"),
    "box that is NaN": (at(6, x_2="nan"), r"row 6, column x_2: 'nan' is no number of pixels; give"),
    "box that is infinite": (at(6, x_2="inf"), r"row 6, column x_2: 'inf' is no number of pixels"),
    "box that is text": (at(6, x_1="left"), r"row 6, column x_1: 'left' is no number of pixels"),
    "box without area": (at(7, y_2=3), r"row 7, column y_2: the box is 0 pixels high; it must be at least 1"),
    "corners exchanged": (at(7, x_2=1), r"row 7, column x_2: the box is -1 pixels wide;"),
    "shares of the picture": (
        lambda rows: [{**row, "x_1": 0.2, "y_1": 0.3, "x_2": 0.6, "y_2": 0.9} for row in rows],
        r"row 2, column x_2: the box is 0\.4 pixels wide; .* not in shares of the picture",
    ),
    "box right of the picture": (
        at(8, x_1=WIDTH, x_2=20),
        r"row 8, column x_1: the box lies outside the picture, which is 12 x 10 pixels; correct it",
    ),
    "box above the picture": (at(8, y_1=-9, y_2=0), r"row 8, column y_1: the box lies outside the picture"),
    "the same row twice": (
        lambda rows: [*rows, dict(rows[2])],
        r"row 14, column path: images/class2_0\.png is in row 4 already with this box; remove",
    ),
    "one file, two spellings": (
        at(5, path="images/../images/class2_0.png"),
        r"row 5, column path: \S+ is in row 4 already",
    ),
    "no true or false": (at(2, is_query="maybe"), r"row 2, column is_query: 'maybe' is neither true nor"),
    "queries without gallery": (without("is_gallery"), r"row 1: there is no column is_gallery; is_query and"),
    "a query to learn from": (
        at(4, is_query="True"),
        r"row 4, column is_query: the row is of the split train",
    ),
    "a query that nothing answers": (
        lambda rows: at(3, is_gallery="0")(at(2, is_gallery="0")(rows)),
        r"row 2, column is_query: class class10 has no row with is_gallery",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_by_one_line(folder, mistake):
    change, message = MISTAKES[mistake]
    root = write_csv(folder / "mistake.csv", change(rows_of(**FULL)))
    with pytest.raises(ValueError, match=rf"mistake\.csv, {message}") as caught:
        table.load(root)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"row 1: none of the columns path, .* is there, but nothing; the first row"),
        (b"path,label\n", r"t\.csv has no rows; below the header"),
        (b"path,label\n,\n\n", r"t\.csv has no rows"),
        (b"path;label\na.png;x\n", r"row 1: none of the columns .* but 'path;label'; .* with commas"),
        ("path,label\na.png,x\n".encode("utf-16"), r"row 1: none of the columns .* the file must be UTF-8"),
        (b"path,label\na.png,x\nb\xe4r.png,x\n", r"row 3, column path: 'b\\udce4r\.png' is not UTF-8; save"),
        (b"path,label\na.png,x\na, b.png,x\n", r"row 3: there are 3 cells, but 2 columns in row 1; put"),
        (b"path,label\na.png\n", r"row 2: there are 1 cells, but 2 columns"),
        (b"path,label,path\na.png,x,b.png\n", r"t\.csv has 2 columns path \(row 1\); remove all but one"),
        (b'path,label\na.png,x\n"b.png,x\n', r"row 3: this is no CSV \(unexpected end of data\); save"),
        (b'path,label\na.png,x\n"b".png,x\n', r"row 3: this is no CSV \(.*\); save"),
        (b"path,label\n" + b"a" * 200_000 + b",x\n", r"row 2: this is no CSV \(field larger than"),
    ],
)
def test_files_that_are_no_csv_table(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        table.load(str(tmp_path / "t.csv"))
    assert len(str(caught.value).splitlines()) == 1


def arrow(**columns):
    return pa.table({"path": ["a.png", "b.png"], "label": ["x", "y"], **columns})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            arrow(label=[1.0, 2.0]),
            r"column label: it is of the type double, but must hold text or whole numbers",
        ),
        (arrow(path=[1, 2]), r"column path: it is of the type int64, but must hold text; convert"),
        (arrow(label=[["x"], ["y"]]), r"column label: it is of the type list<.*>, but must hold"),
        (
            arrow(is_query=[0.5, 1.0]),
            r"column is_query: it is of the type double, but must hold true or false",
        ),
        (arrow(x_1=["1", "2"]), r"column x_1: it is of the type string, but must hold numbers"),
        (arrow(label=[None, "y"]), r"t\.parquet, row 2, column label: the cell is empty"),
        (arrow(label=pa.nulls(2)), r"t\.parquet, row 2, column label: the cell is empty"),
        (
            arrow(left=[1.0, 1.0], top=[1, 2], width=[5, 5], height=[float("nan"), 5]),
            r"t\.parquet, row 2, column height: the cell is empty; give every row a box",
        ),
        (arrow(is_query=[2, 0], is_gallery=[1, 1]), r"row 2, column is_query: '2' is neither true nor false"),
        (arrow()[:0], r"t\.parquet has no rows"),
        (
            arrow(path=pa.array([b"a", b"\xff"]).view(pa.string())),
            r"t\.parquet, row 3, column path: the text is not UTF-8",
        ),
    ],
)
def test_parquet_files_of_other_types(tmp_path, columns, message):
    parquet.write_table(columns, tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=message) as caught:
        table.load(str(tmp_path / "t.parquet"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"PAR1", b"path,label\na.png,x\n"])
def test_damaged_parquet_files(tmp_path, content):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.parquet is no Parquet file \(.*\); save") as caught:
        table.load(str(tmp_path / "t.parquet"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["", "gone.csv", "folder", "notes.txt"])
def test_a_root_that_is_no_table(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("path,label\n")
    root = str(tmp_path / name) if name else ""
    with pytest.raises(
        ValueError, match=r"^--data\.root '.*' is not a file of a table; give .* \.csv or \.parquet$"
    ):
        table.load(root)


def test_without_pyarrow_one_line_says_what_to_install(folder):
    """In a process of its own, in which pyarrow cannot be imported; CSV is read without it."""
    write_parquet(folder / "needs.parquet", rows_of())
    write_csv(folder / "needs_not.csv", rows_of())
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from jaxml.data.sources import table\n"
        f"assert len(table.load({str(folder / 'needs_not.csv')!r}).items) == 12\n"
        f"table.load({str(folder / 'needs.parquet')!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    message = r"ValueError: .*needs\.parquet is read by pyarrow, which is not installed: `pip install jaxml\[parquet\]`"
    assert re.match(message, done.stderr.splitlines()[-1]), done.stderr
