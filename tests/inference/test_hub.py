"""Cards, and networks on the Hugging Face hub, with a stub in the place of its library."""

import sys
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import jaxml
from jaxml.inference import card


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A hub whose repositories are folders; what it was asked for is in `calls`."""
    calls = []

    class Api:
        def create_repo(self, repo, *, private, exist_ok):
            calls.append(("create", repo, private))
            (tmp_path / "hub" / repo).mkdir(parents=True, exist_ok=exist_ok)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            calls.append(("upload", repo_id, commit_message))
            copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)

    def snapshot_download(repo, *, revision, allow_patterns):
        calls.append(("download", repo, revision))
        place = tmp_path / "cache" / repo
        place.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            (place / name).write_bytes((tmp_path / "hub" / repo / name).read_bytes())
        return str(place)

    library = SimpleNamespace(HfApi=Api, snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    return SimpleNamespace(calls=calls, folder=tmp_path / "hub")


def test_a_model_comes_back_from_the_hub(trained, model, remote):
    address = model.push_to_hub("birds/small", private=True)
    assert address == "hf://birds/small"
    assert remote.calls[0] == ("create", "birds/small", True)
    held = {path.name for path in (remote.folder / "birds/small").iterdir()}
    assert held == {"README.md", "config.json", "model.safetensors"}
    for given, revision in (
        (address, None),
        (f"{address}@v1.0", "v1.0"),
        (f"{address}@refs/pr/1", "refs/pr/1"),
    ):
        loaded = jaxml.load(given)
        assert remote.calls[-1] == ("download", "birds/small", revision)
        assert loaded.fingerprint == model.fingerprint
    assert np.array_equal(loaded.embed(trained[1][:3]), model.embed(trained[1][:3]))


@pytest.mark.parametrize("address", ["hf://birds", "hf://a/b/c", "hf://a/b@", "hf://a/../b", "hf://a/b@../c"])
def test_other_addresses_are_refused(address, remote):
    with pytest.raises(ValueError, match=r"is not of the form hf://owner/repo"):
        jaxml.load(address)
    assert not remote.calls


def test_other_names_are_refused(model, remote):
    with pytest.raises(ValueError, match="'birds' is not of the form owner/repo"):
        model.push_to_hub("birds")
    assert not remote.calls


def test_without_the_library_one_line_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for action in (lambda: jaxml.load("hf://a/b"), lambda: model.push_to_hub("a/b")):
        with pytest.raises(
            ImportError, match=r"^hf://a/b: needs huggingface_hub, `pip install jaxml\[hub\]`$"
        ):
            action()


def test_the_library_has_what_the_stub_has():
    library = pytest.importorskip("huggingface_hub")
    from inspect import signature

    assert {"revision", "allow_patterns"} <= signature(library.snapshot_download).parameters.keys()
    assert {"private", "exist_ok"} <= signature(library.HfApi.create_repo).parameters.keys()
    parameters = signature(library.HfApi.upload_folder).parameters.keys()
    assert {"repo_id", "folder_path", "commit_message"} <= parameters


def test_the_card_says_what_is_known(model, tmp_path):
    model.save(tmp_path / "saved")
    text = (tmp_path / "saved/README.md").read_text(encoding="utf-8")
    assert 'model = jaxml.load("path/of/this/folder")' in text
    assert "| nmi | 0.7500 |" in text
    assert "| division of the classes (training / validation / test) | 0-4/5-6/7-9 |" in text
    assert "| loss | proxy_anchor |" in text
    assert "| step of the checkpoint | 10 |" in text
    assert "began from random parameters" in text
    assert "\n\n\n" not in text
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "jaxml"
    assert "license" not in head


def test_a_card_names_the_teacher_and_what_was_seen(model):
    teacher = {"source": "wi|de", "step": 500, "sha256": "ab", "backbone": "resnet50", "dimensions": 512}
    weights = {"source": "first", "sha256": "cd", "license": None}
    about = {**model.about, "teacher": teacher, "weights": weights, "seen": 3}
    text = card.render(model.config, 8, about)
    assert r"| learned from the network | wi\|de, step 500: resnet50, 512 numbers |" in text
    assert "networks that training began with or learned from had learned 3 of them" in text
    assert "learned from the network" not in card.render(model.config, 8, model.about)


def test_a_card_with_baselines_and_weights(model):
    about = {
        **model.about,
        "weights": {"source": "net|work.safetensors", "sha256": "ab", "license": "BSD-3-Clause"},
        "results": {"test": {"nmi": 0.5, "f1": 0.25}, "baselines": {"raw pixels": {"nmi": 0.125}}},
    }
    text = card.render(model.config, 8, about, "hf://birds/small")
    assert 'jaxml.load("hf://birds/small")' in text
    lines = text.splitlines()
    place = lines.index("| metric | this network | raw pixels |")
    assert lines[place + 1 : place + 4] == [
        "|---|---:|---:|",
        "| nmi | 0.5000 | 0.1250 |",
        "| f1 | 0.2500 |  |",
    ]
    assert r"| pretrained weights | net\|work.safetensors |" in lines
    assert "state this licence: BSD-3-Clause." in text
    assert yaml.safe_load(text.split("---")[1])["license_name"] == "BSD-3-Clause"
    assert "had learned" not in text
    unknown = card.render(model.config, 8, {})
    assert "No scores of test classes are known." in unknown
    assert str(Path.home()) not in unknown
