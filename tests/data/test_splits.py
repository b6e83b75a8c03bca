"""Splits by class: named and explicit ones, disjoint and complete, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxml.data.splits import ranges, split, without_test


def test_named_splits_of_200_classes_are_the_published_ones():
    poster, standard = split("poster", 200), split("standard", 200)
    assert [poster[p].tolist() for p in ("train", "val", "test")] == [
        list(range(80)),
        list(range(80, 120)),
        list(range(120, 200)),
    ]
    assert [standard[p].tolist() for p in ("train", "val", "test")] == [
        list(range(80)),
        list(range(80, 100)),
        list(range(100, 200)),
    ]


def test_explicit_ranges_include_both_ends():
    parts = split("4-5/0-0/2-3", 6)
    assert {k: v.tolist() for k, v in parts.items()} == {"train": [4, 5], "val": [0], "test": [2, 3]}


@given(st.sampled_from(["poster", "standard"]), st.integers(10, 30_000))
def test_named_splits_cover_every_class_once(name, num_classes):
    together = np.concatenate(list(split(name, num_classes).values()))
    assert np.array_equal(np.sort(together), np.arange(num_classes))


@pytest.mark.parametrize("name", ["poster", "standard", "4-8/2-3/9-19"])
def test_without_test_classes(name):
    whole, parts = split(name, 20), split(without_test(name, 20), 20)
    assert len(parts["test"]) == 0 < len(whole["test"])
    assert all(np.array_equal(parts[part], whole[part]) for part in ("train", "val"))


@given(st.integers(1, 3000), st.integers(0, 3000), st.integers(0, 3000))
def test_ranges_say_how_many_classes_each_part_has(train, val, test):
    """Without val classes, train is divided as `standard` divides the first half."""
    if not val and train < 5:
        with pytest.raises(ValueError, match=f"^train has {train} classes and val none"):
            ranges(train, val, test)
        return
    total = train + val + test
    parts = split("source", total, ranges(train, val, test))
    found = {part: len(classes) for part, classes in parts.items()}
    if not val:
        halves = split("standard", 2 * train)
        train, val = len(halves["train"]), len(halves["val"])
    assert found == {"train": train, "val": val, "test": test}
    assert np.array_equal(np.concatenate(list(parts.values())), np.arange(total))


def test_the_stated_division_without_its_test_classes():
    assert without_test("source", 10, "0-3/4-5/6-9") == "0-3/4-5"


@pytest.mark.parametrize(
    ("name", "num_classes", "message"),
    [
        ("halves", 200, "poster or standard"),
        ("0-59", 200, "inclusive class ranges"),
        ("0-59/60-79/80-200", 200, r"names class 200, .* 0 to 199"),
        ("0-59/59-79/80-99", 200, r"classes \[59\] into two parts"),
        ("9-3/10-11/12-13", 200, "part without classes"),
        ("poster", 2, "part without classes"),
        ("standard", 8, "part without classes"),
    ],
)
def test_bad_splits_say_what_to_do(name, num_classes, message):
    with pytest.raises(ValueError, match=message):
        split(name, num_classes)
