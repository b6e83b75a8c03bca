"""A made-up package of weights, in the place of those of the package index."""

import hashlib

import pytest

from experiments.stress import torch_files
from jaxml.models.weights.packages import PACKAGES, Package
from tests.models.weights import torchvision_weights


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The folder of an installed package with made-up weights, and the row that names it."""
    site, weights = tmp_path / "site", torchvision_weights.weights("squeezenet1_1")
    data = torch_files.save(weights, legacy=True)
    file = site / "made_up_model/models/made-up.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    (site / "made_up_model/__init__.py").write_text("raise AssertionError('code of a package of weights')")
    information = site / "made_up_model-1.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up-model\nVersion: 1.2\n")
    row = Package(
        name="made-up-model",
        file="made_up_model/models/made-up.pth",
        sha256=hashlib.sha256(data).hexdigest(),
        licence="Apache-2.0",
        origin="here",
    )
    monkeypatch.setitem(PACKAGES, "squeezenet1_1", row)
    monkeypatch.syspath_prepend(site)
    return site, row


@pytest.fixture
def uninstall(installed):
    """A function that takes the package away."""
    site, _ = installed
    return lambda: site.rename(site.with_name("elsewhere"))
