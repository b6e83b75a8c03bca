"""Exported networks: a process that cannot import jaxml gets the same embeddings, for any batch."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jaxml import config, models
from jaxml.inference.model import Model
from tests.spread import spread

WITHOUT_JAXML = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "jaxml":
            raise ImportError("jaxml is not here")

sys.meta_path.insert(0, Refuse())
try:
    import jaxml
except ImportError:
    pass
else:
    raise SystemExit("jaxml was imported")
import jax, numpy as np
from jax import export

pixels = np.load("pixels.npy")
embed = jax.jit(export.deserialize(bytearray(open("model.jaxexport", "rb").read())).call)
np.savez("found.npz", *[np.asarray(embed(pixels[:count])) for count in (1, 2, 5, 60)])
"""


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "out"
    model.export(folder)
    return folder


def test_it_runs_where_jaxml_cannot_be_imported(trained, model, exported):
    np.save(exported / "pixels.npy", trained[1])
    command = [sys.executable, "-c", WITHOUT_JAXML]
    done = subprocess.run(command, cwd=exported, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = model.embed(trained[1])
    with np.load(exported / "found.npz") as found:
        for array, count in zip(found.values(), (1, 2, 5, 60), strict=True):
            np.testing.assert_allclose(array, expected[:count], atol=2e-6)


def test_the_description_says_how_to_call_it(trained, model, exported, tmp_path):
    content = json.loads((exported / "export.json").read_text())
    assert content["platforms"] == ["cpu", "cuda", "tpu"]
    assert content["input"]["shape"] == ["b", 24, 24, 3]
    assert content["output"]["shape"] == ["b", 8]
    assert content["model"] == model.fingerprint
    Image.fromarray(trained[1][5]).save(exported / "picture.jpg", "PNG")
    code = "\n".join([*content["example"], 'np.save("one.npy", embeddings)'])
    subprocess.run([sys.executable, "-c", code], cwd=exported, check=True)
    np.testing.assert_allclose(np.load(exported / "one.npy"), model.embed(trained[1][5]), atol=2e-6)


IN_TENSORFLOW = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "jaxml":
            raise ImportError("jaxml is not here")

sys.meta_path.insert(0, Refuse())
import numpy as np
import tensorflow as tf

pixels = np.load("pixels.npy")
loaded = tf.saved_model.load("saved_model")
found = [loaded.embed(pixels[:count]).numpy() for count in (1, 2, 5, 60)]
(served,) = loaded.signatures["serving_default"](pixels=tf.constant(pixels)).values()
np.savez("found.npz", *found, served.numpy())
"""


def test_tensorflow_runs_it_where_jaxml_cannot_be_imported(trained, model, tmp_path):
    pytest.importorskip("tensorflow")
    model.export(tmp_path / "out", form="tensorflow")
    np.save(tmp_path / "out/pixels.npy", trained[1])
    content = json.loads((tmp_path / "out/export.json").read_text())
    assert content["program"] == "saved_model"
    Image.fromarray(trained[1][5]).save(tmp_path / "out/picture.jpg", "PNG")
    example = "\n".join([*content["example"], 'np.save("one.npy", embeddings)'])
    command = [sys.executable, "-c", f"{IN_TENSORFLOW}\n{example}"]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = model.embed(trained[1])
    with np.load(tmp_path / "out/found.npz") as found:
        for array, count in zip(found.values(), (1, 2, 5, 60, 60), strict=True):
            np.testing.assert_allclose(array, expected[:count], atol=2e-6)
    np.testing.assert_allclose(np.load(tmp_path / "out/one.npy"), model.embed(trained[1][5]), atol=2e-6)


def test_forms_that_there_are_not_are_refused(model, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="form is 'onnx'; give one of jax, tensorflow"):
        model.export(tmp_path / "out", form="onnx")
    monkeypatch.delitem(sys.modules, "jaxml.tensorflow", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"^this needs tensorflow, `pip install jaxml\[tf\]`"):
        model.export(tmp_path / "out", form="tensorflow")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backbone", spread(models.BACKBONES, of=3))
def test_every_backbone_is_exported_for_every_platform(backbone, tmp_path):
    size = 75 if backbone == "inception_v3" else 32
    chosen = config.Config(
        model=config.Model(backbone=backbone, feature_size=4), data=config.Data(stored_size=size, size=size)
    )
    # Nothing is computed: parameters are zeros.
    variables = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), models.shapes(models.build(chosen.model), size)
    )
    Model(chosen, variables, {}).export(tmp_path / "out")
    exported = jax.export.deserialize(bytearray((tmp_path / "out/model.jaxexport").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.in_avals[0].shape) == f"(b, {size}, {size}, 3)"
