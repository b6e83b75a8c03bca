"""Categories of classes, told by their names or by the data set."""

import re

import numpy as np
import pytest

from jaxml.config import Config, Data
from jaxml.data import Index
from jaxml.data.categories import named, of_classes
from jaxml.data.index import Retrieval
from jaxml.data.sampling import class_table, sample

LABELS = np.array([2, 0, 1, 3, 0, 1, 2, 3, 4, 4], np.int32)
FAMILIES = np.array(["gulls", "owls", "gulls", "terns", "owls"])


def birds(stated):
    """Pictures of five classes, each with what is stated of it."""
    names = tuple(f"{i}.png" for i in range(len(LABELS)))
    return Index(
        items=[b""] * len(LABELS),
        labels=LABELS,
        boxes=None,
        class_names=tuple(f"class{c}" for c in range(5)),
        names=names,
        retrieval=Retrieval(categories=tuple(stated)),
    )


def test_they_are_told_by_names():
    names = ["001.Black_footed_Albatross", "002.Least_Auklet", "003.Sooty_Albatross", "004.Cardinal"]
    assert named(r".*[._](.+)", names).tolist() == [0, 1, 0, 2]
    with pytest.raises(
        ValueError, match=r"^--data\.category '.*_\(.*\)' does not match class 004\.Cardinal; it must"
    ):
        named(".*_(.+)", names)
    index = birds(FAMILIES[LABELS])
    assert of_classes("class([01])?.*", index, np.array([3, 1, 0])).tolist() == [0, 2, 1]


def test_the_data_set_states_them():
    index = birds(FAMILIES[LABELS])
    classes = np.array([4, 0, 2, 1])
    found = of_classes("source", index, classes)
    assert found.tolist() == [1, 0, 0, 1]
    table = class_table(LABELS, classes, found)
    for step in range(20):
        drawn = np.asarray(sample(0, step, table, 2, 2, 2)[1])
        assert {*drawn} in ({0, 3}, {1, 2}), "two owls or two gulls"


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ((), "the data set states no categories; give an expression"),
        (
            np.where(np.arange(10) == 6, "auks", FAMILIES[LABELS]),
            "class2 has the categories 'gulls' and 'auks'",
        ),
        (np.where(LABELS == 3, "", FAMILIES[LABELS]), "class class3 has no category; give its images one"),
    ],
)
def test_what_is_stated_may_be_unfit(stated, said):
    with pytest.raises(ValueError, match=f"^--data.category source: .*{re.escape(said)}"):
        of_classes("source", birds(stated), np.arange(5))


def test_the_option_is_checked():
    assert Config(data=Data(category="source")).data.category == "source"
    with pytest.raises(
        ValueError,
        match=r"^--data\.category is '.\+'; it must be source, or a regular expression with a group",
    ):
        Config(data=Data(category=".+"))
    with pytest.raises(
        ValueError, match=r"^--data\.category has|^--data\.category is '\('; it must be a regular exp"
    ):
        Config(data=Data(category="("))
