"""The table of clusters: names of files, which may be hostile, as cells."""

import pytest

from jaxml.reports import clusters


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_cell_is_never_a_formula(begin):
    assert clusters._cell(f"{begin}1+1.png") == f"'{begin}1+1.png"


@pytest.mark.parametrize("begin", ["\t", "\r", "\n"])
def test_a_cell_begins_with_no_control_character(begin):
    assert clusters._cell(f"{begin}=1") == begin.encode("unicode_escape").decode() + "=1"


@pytest.mark.parametrize("name", ["Ä ö.png", "鳥/図.jpg", "a b=1+1", "C:\\bird", "🐦.png"])
def test_ordinary_names_stay_as_they_are_in_cells(name):
    assert clusters._cell(name) == name
