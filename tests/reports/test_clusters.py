"""The table of clusters, in which names of files may be hostile, and what its page gives to its script."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxml.data.sources.unlabelled import Pictures
from jaxml.evaluation.grouping import Groups
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


def test_the_page_holds_the_table_and_links_the_sheets(tmp_path, monkeypatch):
    names = [
        "</script><script>alert(1)</script>.png".replace("/", "\u2215"),
        "=1+1.png",
        'a,"b.png',
        "c\n.png",
        "d.png",
    ]
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (50 * i, 0, 0)).save(tmp_path / name)
    number = np.array([0, 0, 0, 1, 1])
    groups = Groups(
        number, np.arange(5, dtype=np.float32), 1 - number, np.linspace(0, 1, 5, dtype=np.float32)
    )
    monkeypatch.setattr(clusters, "PER_SHEET", 2)
    monkeypatch.setattr(clusters, "PICTURED", 1)
    clusters.write(tmp_path / "out", Pictures(tmp_path, tuple(names)), groups, errors={}, choice="Given.")
    text = (tmp_path / "out/clusters.html").read_text(encoding="utf-8")
    start = '<script type="application/json" id="data">'
    data = json.loads(text[text.index(start) + len(start) : text.index("</script>", text.index(start))])
    with open(tmp_path / "out/clusters.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [data["columns"], *data["rows"]]
    sheets = [["contact/cluster_001.jpg", "contact/cluster_001_2.jpg"], ["contact/cluster_002.jpg"]]
    assert data["sheets"] == sheets
    assert re.findall(r'<a href="([^"]*)"', text) == [sheet for cluster in sheets for sheet in cluster]
    assert all((tmp_path / "out" / sheet).is_file() for cluster in sheets for sheet in cluster)
    assert text.count("<script") == 2
    assert re.findall(r'<figure class="picture" data-place="(\d)"', text) == ["0", "1", "2"], (
        "of the first cluster"
    )
