"""The backbones against torchvision's networks with the same weights."""

import copy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from experiments.benchmarks.torch_networks import import_torchvision
from jaxml import config, models
from jaxml.models import BACKBONES
from jaxml.models.weights import pretrained
from tests.models.weights import torchvision_weights as torchvision_like

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers
NAMES = torchvision_like.NAMES


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name == "inception_v3")) for name in NAMES],
)
def pair(request, tmp_path_factory):
    """Our network and torchvision's with the same weights."""
    name = request.param
    path = tmp_path_factory.mktemp(name) / "weights.safetensors"
    save_file(torchvision_like.weights(name), path)
    module = models.build(config.Model(backbone=name, head="classifier", feature_size=1000))
    images = jnp.zeros((1, 96, 96, 3))
    shapes = jax.eval_shape(lambda key: module.init(key, images, train=False), jax.random.key(0))
    variables, _ = pretrained.load(path, shapes, name, classifier=True)
    return name, module, variables, torchvision_like.torch_network(name)


def relative(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def outputs(module, variables, x):
    return module.bind(variables).backbone(x, False).mean((1, 2)), module.apply(variables, x, train=False)


def test_parameter_counts(pair):
    _, _, variables, network = pair
    theirs = sum(
        value.numel() for key, value in network.named_parameters() if not key.startswith("AuxLogits")
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == theirs


@pytest.mark.parametrize("size", ["native", (193, 161)])
def test_features_and_logits(pair, size):
    name, module, variables, network = pair
    size = (BACKBONES[name].size,) * 2 if size == "native" else size
    x = torchvision_like.images(name, size)
    with torch.no_grad():
        features, logits = torchvision_like.torch_outputs(network, torchvision_like.nchw(x))
    ours = jax.jit(partial(outputs, module))(variables, x)
    errors = relative(ours[0], features), relative(ours[1], logits)
    print(f"{name} {size}: relative error of features {errors[0]:.1e}, of logits {errors[1]:.1e}")
    assert max(errors) < 1e-5


def torch_gradients(name, network, x, form, train):
    """Gradients by name of sum(form * features), and BatchNorm's statistics after the step."""
    network.train(train)
    network.AuxLogits = None
    for part in network.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    network.zero_grad()
    features, _ = torchvision_like.torch_outputs(network, torchvision_like.nchw(x))
    (features * torch.from_numpy(form)).sum().backward()
    gradients = {
        key: value.grad.numpy() for key, value in network.named_parameters() if value.grad is not None
    }
    statistics = {key: value.numpy().copy() for key, value in network.named_buffers()}
    values = {key: torch.from_numpy(value) for key, value in torchvision_like.weights(name).items()}
    network.eval().load_state_dict(values, strict=False)
    return gradients, statistics


@pytest.mark.parametrize(
    ("dtype", "train"),
    [
        pytest.param("float32", False, marks=pytest.mark.slow),
        pytest.param("float64", False, marks=pytest.mark.slow),
        ("float64", True),
    ],
)
def test_gradients(pair, train, dtype):
    """Of a random linear form of the features with respect to every parameter, with running and with batch statistics.

    In float64 the gradients are equal up to the final rounding to float32; in float32 rounding also decides ReLUs and
    maxima near ties. (In float32 with the statistics of a small batch, random networks are chaotic: PyTorch's own
    gradients of ResNet-50 are 2e-2 away from its float64 ones, and ours as far.)
    """
    name, _, variables, network = pair
    network = copy.deepcopy(network).to(getattr(torch, dtype))
    x = torchvision_like.images(name, (113, 97), batch=4).astype(dtype)
    form = np.random.default_rng(0).standard_normal((4, BACKBONES[name].features)).astype(dtype)
    theirs, statistics = torch_gradients(name, network, x, form, train)
    with jax.enable_x64(dtype == "float64"):
        backbone = BACKBONES[name].module(dtype=jnp.dtype(dtype))
        inner = {
            key: jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree["backbone"])
            for key, tree in variables.items()
        }

        def loss(params):
            feature_map, updates = backbone.apply(
                {**inner, "params": params}, jnp.asarray(x), train, mutable=["batch_stats"]
            )
            return (feature_map.mean((1, 2)) * form).sum(), updates

        gradient, updates = jax.jit(jax.grad(loss, has_aux=True))(inner["params"])
    ours = {
        "params/backbone/" + key: np.asarray(value) for key, value in flatten_dict(gradient, sep="/").items()
    }
    errors, squares = {}, np.zeros(2)
    for key, value in theirs.items():
        path, value = pretrained._place(key, value, BACKBONES[name].classifier)
        if path in ours:
            difference = np.linalg.norm(ours[path] - value)
            errors[key] = difference / np.linalg.norm(value)
            squares += difference**2, np.linalg.norm(value) ** 2
    assert len(errors) == len(ours)
    total, worst = np.sqrt(squares[0] / squares[1]), max(errors, key=errors.get)
    print(f"{name} {dtype} train={train}: relative error {total:.1e}, largest {errors[worst]:.1e} at {worst}")
    assert total < {"float32": 1e-4, "float64": 1e-7}[dtype]
    if train and "batch_stats" in updates:
        layer = {"resnet50": "bn1", "inception_v3": "Conv2d_1a_3x3.bn"}[name]
        node = flatten_dict(updates["batch_stats"], sep="/")
        path = layer.replace(".", "/")
        np.testing.assert_allclose(
            node[f"{path}/mean"], statistics[f"{layer}.running_mean"], rtol=1e-4, atol=1e-5
        )
        # PyTorch's running variance is the unbiased one.
        np.testing.assert_allclose(node[f"{path}/var"], statistics[f"{layer}.running_var"], rtol=1e-3)


def test_inceptions_input_is_torchvisions_after_its_own_transformation():
    """torchvision's pretrained Inception takes ImageNet's normalisation and undoes it; ours takes [-1, 1]."""
    torchvision = import_torchvision()
    network = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=True)
    pixels = torch.rand(1, 3, 4, 5)
    resnet, inception = BACKBONES["resnet50"], BACKBONES["inception_v3"]
    as_column = lambda values: torch.tensor(values)[:, None, None]  # noqa: E731
    theirs = network._transform_input((pixels - as_column(resnet.mean)) / as_column(resnet.std))
    ours = (pixels - as_column(inception.mean)) / as_column(inception.std)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
