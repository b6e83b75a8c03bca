"""Stanford Online Products, In-Shop and iNaturalist, by small folders of the same form with numbers of their own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxml import data
from jaxml.config import Config, Data
from jaxml.data.images import open_images
from jaxml.data.sources import in_shop, inaturalist, official_lists, sop
from jaxml.data.splits import split
from jaxml.planning.program import data_set


def test_the_official_numbers_are_the_published_ones():
    """Of Song et al. 2016, of the benchmark of Liu et al. 2016, and of all iNaturalist 2018 but its test images."""
    assert sop.COUNTS["train images"] + sop.COUNTS["test images"] == 120_053
    assert sop.COUNTS["train classes"] + sop.COUNTS["test classes"] == 22_634
    assert sum(count for name, count in in_shop.COUNTS.items() if "images" in name) == 52_712
    assert in_shop.COUNTS["train classes"] + in_shop.COUNTS["test classes"] == 7_982
    assert inaturalist.COUNTS["train images"] + inaturalist.COUNTS["test images"] == 437_513 + 24_426
    assert inaturalist.COUNTS["train classes"] + inaturalist.COUNTS["test classes"] == 8_142


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 8, 3), np.uint8)).save(path)


SOP = {
    # class_id, super_class_id and path of each image; classes 1 to 6 are for training
    "Ebay_train.txt": [
        (c, 1 + c // 4, f"{('bicycle', 'mug')[c // 4]}_final/{c}0_{i}.JPG")
        for c in range(1, 7)
        for i in (0, 1)
    ],
    "Ebay_test.txt": [(c, 1, f"bicycle_final/{c}0_{i}.JPG") for c in range(7, 12) for i in (0, 1, 2)],
}
SOP_COUNTS = {"train images": 12, "test images": 15, "train classes": 6, "test classes": 5}


@pytest.fixture
def products(tmp_path, monkeypatch):
    monkeypatch.setattr(sop, "COUNTS", SOP_COUNTS)
    folder, number = tmp_path / "Stanford_Online_Products", 0
    for file, rows in SOP.items():
        text = "image_id class_id super_class_id path\n"
        for row in rows:
            number += 1
            text += f"{number} {' '.join(map(str, row))}\n"
            draw(folder / row[2], number)
        (folder / file).write_text(text)
    return folder


def test_products_have_their_official_division(products, tmp_path):
    config = Data(
        source="sop",
        root=str(products),
        split="source",
        cache=str(tmp_path / "cache"),
        stored_size=8,
        size=8,
    )
    images = open_images(config)
    assert images.index.class_names == tuple(map(str, range(1, 12)))
    names = {part: [images.index.class_names[k] for k in classes] for part, classes in images.parts.items()}
    # The last fifth of 6 classes is one.
    assert names == {"train": list("12345"), "val": ["6"], "test": ["7", "8", "9", "10", "11"]}
    assert [images.index.class_names[k] for k in images.classes("train+val")] == list("123456")
    index = images.index
    assert index.labels.tolist() == [*np.repeat(range(6), 2), *np.repeat(range(6, 11), 3)]
    assert index.names[0] == "bicycle_final/10_0.JPG"
    assert index.items[12] == str(products / "bicycle_final/70_0.JPG")
    assert index.retrieval.categories == ("bicycle",) * 6 + ("mug",) * 6 + ("bicycle",) * 15
    assert index.retrieval.is_query is None
    assert index.places[0] == "Ebay_train.txt, line 2"


def edit(path: Path, number: int, line: str | None) -> None:
    """Replace a line of a file, counted from 1, or remove it."""
    found = path.read_text().splitlines()
    found[number - 1 : number] = [] if line is None else [line]
    path.write_text("\n".join(found))


@pytest.mark.parametrize(
    ("file", "number", "line", "message"),
    [
        (
            "Ebay_test.txt",
            4,
            None,
            r"Stanford_Online_Products lists 12 train images, 14 test images, 6 train classes,",
        ),
        (
            "Ebay_train.txt",
            2,
            "1 99 1 a.JPG",
            r"lists .*, 7 train classes, .*; the official data set has 12 train .* Unpack",
        ),
        (
            "Ebay_train.txt",
            1,
            "1 1 1 a.JPG",
            r"Ebay_train\.txt, line 1: expected the header image_id .* '1 1 1 a\.JPG'",
        ),
        (
            "Ebay_test.txt",
            3,
            "14 7 bicycle",
            r"^Ebay_test\.txt, line 3: expected image_id .*, got '14 7 bicycle'",
        ),
        (
            "Ebay_test.txt",
            2,
            "13 6 1 bicycle_final/70_0.JPG",
            r"^Ebay_test\.txt, line 2: class 6 is in test, but Ebay_t",
        ),
    ],
)
def test_products_with_other_lists_are_refused(products, monkeypatch, file, number, line, message):
    if line and line.startswith("13 6"):
        monkeypatch.setattr(sop, "COUNTS", {**SOP_COUNTS, "test classes": 6})
    edit(products / file, number, line)
    with pytest.raises(ValueError, match=message) as caught:
        sop.load(str(products))
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"Ebay_train\.txt cannot be read .* folder Stanford_Online_Products of"
    ):
        sop.load(str(tmp_path))
    with pytest.raises(
        ValueError, match=r"partition\.txt cannot be read .* folder of the In-shop .* Img/img$"
    ):
        in_shop.load(str(tmp_path))


# Items of both parts in one order of numbers, as in the official list.
CLOTHES = [
    *((f"id_{c:08d}", "train", i) for c in (1, 3, 4, 6, 8, 11) for i in (1, 2)),
    *((f"id_{c:08d}", "query" if i == 1 else "gallery", i) for c in (2, 5, 10) for i in (1, 2, 3)),
]
CLOTHES_COUNTS = {
    "train images": 12,
    "query images": 3,
    "gallery images": 6,
    "train classes": 6,
    "test classes": 3,
}


@pytest.fixture
def clothes(tmp_path, monkeypatch):
    monkeypatch.setattr(in_shop, "COUNTS", CLOTHES_COUNTS)
    folder = tmp_path / "In-shop Clothes Retrieval Benchmark"
    (folder / "Eval").mkdir(parents=True)
    text = f"{len(CLOTHES)}\nimage_name item_id evaluation_status\n"
    for number, (item, status, i) in enumerate(sorted(CLOTHES)):
        name = f"img/WOMEN/Tees_Tanks/{item}/0{i}_1_front.jpg"
        text += f"{name:60} {item} {status}\n"
        draw(folder / "Img" / name, number)
    (folder / in_shop.LIST).write_text(text)
    return folder


def test_clothes_have_their_official_division_queries_and_gallery(clothes, tmp_path):
    config = Data(source="in_shop", root=str(clothes), cache=str(tmp_path / "cache"))
    index = data.load(config)
    parts = split("source", len(index.class_names), index.split)
    items = {part: [int(index.class_names[k][3:]) for k in classes] for part, classes in parts.items()}
    assert items == {"train": [1, 3, 4, 6, 8], "val": [11], "test": [2, 5, 10]}
    for i, (item, status, _) in enumerate(sorted(CLOTHES)):
        assert index.class_names[index.labels[i]] == item
        assert index.retrieval.is_query[i] == (status == "query")
        assert index.retrieval.is_gallery[i] == (status == "gallery")
    assert index.names[0] == "img/WOMEN/Tees_Tanks/id_00000001/01_1_front.jpg"
    assert index.items[0] == str(clothes / "Img" / index.names[0])
    assert index.places[0] == "list_eval_partition.txt, line 3"


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (4, None, r"lists 11 train images, 3 query images, .*; the official data set has 12 train images"),
        (
            5,
            "img/a.jpg id_00000001 test",
            r"^list_eval_partition\.txt, line 5: 'test' is none of train, query and",
        ),
        (5, "img/a.jpg id_00000001", r"^list_eval_partition\.txt, line 5: expected image_name item_id evalu"),
        (1, None, r"line 2: expected the header image_name item_id evaluation_status, got 'img/"),
    ],
)
def test_clothes_with_another_list_are_refused(clothes, number, line, message):
    edit(clothes / in_shop.LIST, number, line)
    with pytest.raises(ValueError, match=message) as caught:
        in_shop.load(str(clothes))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "52712\n", "0\nimage_name item_id evaluation_status\n"])
def test_lists_without_images_are_refused(clothes, text):
    (clothes / in_shop.LIST).write_text(text)
    with pytest.raises(ValueError, match=r"expected the header|lists 0 train images, 0 query images"):
        in_shop.load(str(clothes))


def test_a_class_in_two_parts_is_refused(tmp_path):
    images = [
        official_lists.Listed(f"line {i}", f"{i}.jpg", "bird", part)
        for i, part in enumerate(("train", "query"))
    ]
    official = {"train images": 1, "query images": 1, "train classes": 1, "test classes": 1}
    with pytest.raises(ValueError, match=r"^line 1: class bird is in test, but line 0 has it in train"):
        official_lists.index(tmp_path, images, official, data.Retrieval())


@pytest.mark.parametrize(
    ("source", "images", "classes", "train", "both"),
    [
        ("sop", 120_053, 11_318 + 11_316, 11_318 - 2_263, 11_318),
        ("in_shop", 52_712, 3_997 + 3_985, 3_997 - 799, 3_997),
    ],
)
def test_plans_know_the_official_divisions(source, images, classes, train, both):
    config = Config(data=Data(source=source, split="source"))
    assert data_set(config, 0, 0) == (images * train // classes, train)
    config = Config(data=Data(source=source, split="source", train_on="train+val"))
    assert data_set(config, 0, 0) == (images * both // classes, both)


def test_a_plan_for_a_table_needs_its_division():
    config = Config(data=Data(source="table", split="source"))
    with pytest.raises(
        ValueError, match=r"^--data\.split source: a plan reads no data set, .* what table states; give"
    ):
        data_set(config, 100, 10)


@pytest.fixture
def species(tmp_path, monkeypatch):
    """Five species to train on and two to test on, with two pictures each."""
    counts = {"train images": 10, "test images": 4, "train classes": 5, "test classes": 2}
    monkeypatch.setattr(inaturalist, "COUNTS", counts)
    folder = tmp_path / "inaturalist"
    for part, names in {
        "train": ("Aves/12", "Aves/3", "Plantae/9", "Plantae/10", "Fungi/1"),
        "test": ("Aves/7", "Fungi/5"),
    }.items():
        paths = [f"train_val2018/{name}/{i}.jpg" for name in names for i in (0, 1)]
        for seed, path in enumerate(paths):
            draw(folder / path, seed)
        (folder / "Inat_dataset_splits").mkdir(exist_ok=True)
        (folder / "Inat_dataset_splits" / inaturalist.FILES[part]).write_text("\n".join(paths) + "\n")
    return folder


@pytest.mark.parametrize("beside", [False, True])
def test_species_have_their_published_division(species, beside):
    if beside:
        for path in (species / "Inat_dataset_splits").iterdir():
            path.rename(species / path.name)
        (species / "Inat_dataset_splits").rmdir()
    index = inaturalist.load(str(species))
    trained = ("Aves/3", "Aves/12", "Fungi/1", "Plantae/9", "Plantae/10")
    assert index.class_names == (*trained, "Aves/7", "Fungi/5")
    parts = {part: classes.tolist() for part, classes in split(index.split, 7).items()}
    assert parts == {"train": [0, 1, 2, 3], "val": [4], "test": [5, 6]}
    assert index.labels.tolist() == [1, 1, 0, 0, 3, 3, 4, 4, 2, 2, 5, 5, 6, 6]
    assert index.items[0] == str(species / "train_val2018/Aves/12/0.jpg")
    assert index.retrieval.categories[:5] == ("Aves",) * 4 + ("Plantae",)


def test_other_lists_of_species_are_refused(species, tmp_path):
    path = species / "Inat_dataset_splits" / inaturalist.FILES["test"]
    for line, message in (
        (
            "Aves/7.jpg",
            r"^Inaturalist_test_set1\.txt, line 2: expected a path such as train_val2018/Aves/3203",
        ),
        ("a b", r"^Inaturalist_test_set1\.txt, line 2: expected path, got 'a b'"),
        (
            None,
            r"lists 10 train images, 3 test images, 5 train classes, 2 test classes; the official data set has",
        ),
    ):
        kept = path.read_text()
        edit(path, 2, line)
        with pytest.raises(ValueError, match=message):
            inaturalist.load(str(species))
        path.write_text(kept)
    with pytest.raises(
        ValueError, match=r"Inaturalist_train_set1\.txt cannot be read .* lists of Brown et al"
    ):
        inaturalist.load(str(tmp_path))
