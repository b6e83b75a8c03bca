"""Saved networks: the same embeddings, nothing of the machine, written whole, and what a damaged one says."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxml
from jaxml.files import MARKER
from jaxml.models import saved_network


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_model_has_the_same_embeddings(trained, model, saved):
    loaded = jaxml.load(saved)
    assert np.array_equal(loaded.embed(trained[1]), model.embed(trained[1]))
    assert loaded.fingerprint == model.fingerprint
    assert loaded.config == model.config
    assert loaded.about == json.loads(json.dumps(model.about))
    loaded.save(saved.parent / "again")
    assert (saved.parent / "again/config.json").read_bytes() == (saved / "config.json").read_bytes()


def test_nothing_of_the_machine_or_the_loss_is_saved(trained, saved):
    workdir = trained[0]
    root = str(workdir.parent)
    assert root in (workdir / "config.json").read_text()
    for path in saved.iterdir():
        assert root.encode() not in path.read_bytes(), path
    content = json.loads((saved / "config.json").read_text())
    assert content["data"]["root"] == ""
    assert set(content) == {"format", "made_by", "sha256", "about", "data", "model", "eval"}
    arrays = load_file(saved / "model.safetensors")
    assert all(name.startswith(("params.backbone", "params.head", "batch_stats")) for name in arrays)


def test_what_is_known_of_the_training(trained, model):
    about = model.about
    assert about["step"] == 10
    assert about["loss"]["name"] == "proxy_anchor"
    assert (about["images"], about["classes"]) == (60, 10)
    assert about["results"]["test"] == {"nmi": 0.75, "recall@1": 0.5}
    assert about["weights"] is about["teacher"] is None
    assert about["data"] == hashlib.sha256((trained[0] / "data.jsonl").read_bytes()).hexdigest()


def test_weights_are_named_without_their_folder(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    report = {
        "source": "/home/me/w.safetensors",
        "sha256": "ab",
        "metadata": {"license": "BSD-3"},
        "loaded": 1,
    }
    (tmp_path / "run/weights.json").write_text(json.dumps(report))
    weights = jaxml.load(tmp_path / "run").about["weights"]
    assert weights == {"source": "w.safetensors", "sha256": "ab", "license": "BSD-3"}


def test_a_model_takes_the_place_of_an_earlier_one_alone(model, saved, tmp_path):
    before = (saved / "config.json").stat().st_ino
    model.save(saved)
    assert (saved / "config.json").stat().st_ino != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(
        ValueError, match=r"mine holds something else, such as letter\.txt; give a new folder"
    ):
        model.save(tmp_path / "mine")
    with pytest.raises(ValueError, match="is a file"):
        model.save(tmp_path / "mine/letter.txt")
    (saved / MARKER).write_text('{"kind": "clusters"}')
    with pytest.raises(ValueError, match="holds other results of jaxml, not a model"):
        model.save(saved)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["letter.txt"]


def test_an_error_leaves_the_earlier_model(model, saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(saved_network, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_a_damaged_model_is_refused(saved):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + bytes(4))
    with pytest.raises(
        ValueError, match=r"model\.safetensors is not the file that config\.json was written with"
    ):
        jaxml.load(saved)
    path.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a safetensors file"):
        jaxml.load(saved)
    path.unlink()
    with pytest.raises(
        ValueError, match=r"^\S+saved is a saved network without its model\.safetensors; save, copy or"
    ):
        jaxml.load(saved)


def rewrite(saved, **changes):
    content = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(content | changes))


def test_another_format_is_refused(saved):
    rewrite(saved, format=2)
    with pytest.raises(ValueError, match=r"config\.json is no saved network of format 1 \(its format is 2\)"):
        jaxml.load(saved)


def test_a_value_that_an_option_cannot_have_is_refused(saved):
    rewrite(saved, model={"backbone": "simple", "feature_size": -1})
    with pytest.raises(ValueError, match=r"config\.json: --model\.feature_size"):
        jaxml.load(saved)


def test_arrays_of_another_network_are_refused(saved):
    rewrite(saved, model={"backbone": "simple", "feature_size": 9})
    with pytest.raises(ValueError, match=r"does not hold the network of config\.json; look at"):
        jaxml.load(saved)
    arrays = load_file(saved / "model.safetensors")
    arrays["params.loss.proxies"] = np.zeros(3, np.float32)
    save_file(arrays, saved / "model.safetensors")
    content = saved_network.readers.read(saved / "model.safetensors").sha256
    rewrite(saved, model={"backbone": "simple", "feature_size": 8}, sha256=content)
    with pytest.raises(ValueError, match=r"look at params\.loss\.proxies"):
        jaxml.load(saved)
