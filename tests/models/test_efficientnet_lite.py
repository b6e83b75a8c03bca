"""EfficientNet-Lite's weight files: the names of timm and those of efficientnet-lite-pytorch mean the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from jaxml import config, models
from jaxml.models.weights import pretrained
from jaxml.models.weights.readers import WeightFormatError

SMALL = "efficientnet_lite0"
# Blocks of the seven stages, which the package numbers from end to end.
BLOCKS = {"efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1), "efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1)}
BLOCKS["efficientnet_lite2"] = (1, 3, 3, 4, 4, 5, 1)


def shapes_of(name):
    module = models.build(config.Model(backbone=name, head="classifier", feature_size=1000))
    images = jnp.zeros((1, 64, 64, 3))
    return jax.eval_shape(lambda key: module.init(key, images, train=False), jax.random.key(0))


def arrays_of(variables):
    """An array of its own for each of timm's names, in PyTorch's layout."""
    random, found = np.random.default_rng(0), {}
    kinds = {
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
        "bias": "bias",
    }
    for path, leaf in flatten_dict(variables, sep="/").items():
        layer, _, kind = path.partition("/")[2].removeprefix("backbone/").rpartition("/")
        if layer.startswith("blocks_"):
            layer = layer.replace("_", ".", 2)
        order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[leaf.ndim]
        array = random.standard_normal(leaf.shape).astype(np.float32).transpose(order)
        name = "classifier" if layer == "head" else layer.replace("/", ".")
        found[f"{name}.{kinds[kind]}"] = np.ascontiguousarray(array)
    return found


def package_name(name, blocks):
    """The package's name for one of timm's."""
    parts = name.split(".")
    if parts[0] != "blocks":
        outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
        return ".".join([outer.get(parts[0], "_fc"), *parts[1:]])
    stage, index, layer = int(parts[1]), int(parts[2]), parts[3]
    if stage == 0:
        layers = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    else:
        layers = {"conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv"}
        layers |= {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
    return f"_blocks.{sum(blocks[:stage]) + index}.{layers[layer]}.{parts[4]}"


@pytest.mark.parametrize("name", BLOCKS)
def test_both_kinds_of_names_give_the_same(name, tmp_path):
    variables = shapes_of(name)
    timm = arrays_of(variables)
    package = {package_name(key, BLOCKS[name]): array for key, array in timm.items()}
    assert not timm.keys() & package.keys()
    loaded = []
    for file, tensors in (("timm", timm), ("package", package)):
        path = tmp_path / f"{file}.safetensors"
        save_file(tensors, path)
        values, report = pretrained.load(path, variables, name, classifier=True)
        assert report["fresh"] == []
        loaded.append(values)
    jax.tree.map(np.testing.assert_array_equal, *loaded)


def test_what_does_not_fit_has_the_files_own_name(tmp_path):
    variables = shapes_of(SMALL)
    tensors = {package_name(key, BLOCKS[SMALL]): array for key, array in arrays_of(variables).items()}
    tensors["_blocks.16._bn0.bias"] = np.zeros(4, np.float32)
    tensors["_blocks.3._bn1.bias"] = np.zeros(4, np.float32)
    save_file(tensors, tmp_path / "file.safetensors")
    with pytest.raises(WeightFormatError) as error:
        pretrained.load(tmp_path / "file.safetensors", variables, SMALL, classifier=True)
    assert "extra: _blocks.16._bn0.bias [4]" in str(error.value)
    assert "misshapen: _blocks.3._bn1.bias gives [4]" in str(error.value)
    assert str(error.value).count("\n") == 2
