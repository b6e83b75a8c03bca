"""The version and the licence are the same wherever they stand."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_the_citation_is_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (first, *_) = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert citation["version"] == project["version"] == first
    assert citation["license"] == project["license"]
    assert citation["title"] == project["name"]
    assert citation["abstract"] == project["description"]
    # What the format asks for.
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "authors"} <= citation.keys()
    assert all({"type", "title", "authors"} <= reference.keys() for reference in citation["references"])
