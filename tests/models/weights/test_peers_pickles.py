"""Weight files that PyTorch writes, in both formats, and what else it can pickle."""

import importlib.metadata
import io
import os
import pickle
import zipfile
from collections import OrderedDict

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxml import config, models
from jaxml.commands import weights as commands
from jaxml.models.weights import packages, pretrained
from jaxml.models.weights.pickles import parse_pickle, read_pickle
from jaxml.models.weights.readers import WeightFormatError
from tests.models.weights import torchvision_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers
FORMATS = pytest.mark.parametrize("legacy", [False, True])
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def saved(value, legacy=False):
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def parse(data):
    return parse_pickle(io.BytesIO(data), len(data))[0]


def to_numpy(value):
    value = value.detach().contiguous()
    if value.dtype is torch.bfloat16:  # which torch does not hand to NumPy
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


@FORMATS
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_kind(dtype, legacy):
    whole = torch.randint(0, 100, (6, 5, 4, 3), generator=torch.Generator().manual_seed(0))
    whole = whole.to(getattr(torch, dtype))
    table = {
        "whole": whole,
        "same": whole,
        "slice": whole[1:3, ::2, 1],
        "transposed": whole.permute(3, 1, 0, 2),
        "channels last": whole.clone().contiguous(memory_format=torch.channels_last),
        "expanded": whole[0, 0, 0].clone().expand(2, 3),
        "scalar": whole[5, 4, 3, 2],
        "scalar alone": whole[0, 0, 0, 0].clone(),
        "empty": torch.zeros((0, 3)).to(whole.dtype),
        "empty slice": whole[:, :0],
    }
    found = parse(saved(OrderedDict(table), legacy))
    assert list(found) == list(table)
    for name, value in table.items():
        np.testing.assert_array_equal(found[name], to_numpy(value), strict=True)


@FORMATS
def test_state_dicts_and_parameters(legacy):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(2, 2))
    network[2].weight = torch.nn.Parameter(network[2].weight.detach().t())
    for table in (network.state_dict(), dict(network.named_parameters()), network.half().state_dict()):
        found = parse(saved(table, legacy))
        assert found.keys() == table.keys()
        for name, value in table.items():
            np.testing.assert_array_equal(found[name], to_numpy(value), strict=True)


@FORMATS
def test_converting_pth_files(tmp_path, legacy):
    network = torchvision_weights.torch_network("squeezenet1_1").to(memory_format=torch.channels_last)
    source = tmp_path / "weights.pth"
    source.write_bytes(saved(network.state_dict(), legacy))
    commands.convert(source)
    converted = load_file(source.with_suffix(".safetensors"))
    assert converted.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(converted[name], value.numpy())


@pytest.mark.parametrize("name", packages.PACKAGES)
def test_published_packages(name, tmp_path):
    """The real ones, which the extra `weights` installs: the same arrays, and each has its place in the network."""
    found = packages.read(name, tmp_path)
    row = packages.PACKAGES[name]
    file = importlib.metadata.distribution(row.name).locate_file(row.file)
    table = torch.load(file, weights_only=True)
    assert found.tensors.keys() == table.keys()
    for key, value in table.items():
        np.testing.assert_array_equal(found.tensors[key], value.numpy(), strict=True)
    features = models.BACKBONES[name].features
    module = models.build(config.Model(backbone=name, feature_size=features))
    shapes = jax.eval_shape(
        lambda key: module.init(key, jnp.zeros((1, 64, 64, 3)), train=False), jax.random.key(0)
    )
    _, report = pretrained.load("auto", shapes, name, cache=tmp_path)
    assert report["fresh"] == ["head/bias", "head/kernel"]
    classifier = table["_fc.weight"].numel() + table["_fc.bias"].numel()
    counters = sum(key.endswith("num_batches_tracked") for key in table)
    assert report["loaded"] == sum(value.numel() for value in table.values()) - classifier - counters


class Danger:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def compressed(data):
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as source,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return buffer.getvalue()


VALUES = {
    "call": lambda trace: {"a": Danger(trace)},
    "nested call": lambda trace: {"a": torch.zeros(1), "b": [{"c": Danger(trace)}]},
    "whole module": lambda _: torch.nn.Linear(2, 2),
    "nested table": lambda _: {"state_dict": {"a": torch.zeros(1)}, "epoch": 3},
    "list": lambda _: [torch.zeros(1)],
    "expanded": lambda _: {"a": torch.zeros(1).expand(2**40)},
    "many names": lambda _: dict.fromkeys("abcdefgh", torch.zeros(10_000)),
    "meta": lambda _: {"a": torch.zeros(2**40, device="meta")},
    "sparse": lambda _: {"a": torch.eye(2).to_sparse()},
    "complex": lambda _: {"a": torch.zeros(1, dtype=torch.complex64)},
    "conjugate": lambda _: {"a": torch.zeros(1, dtype=torch.complex64).conj()},
    "negative bit": lambda _: {"a": torch.zeros(1, dtype=torch.complex64).conj().imag},
    "float8": lambda _: {"a": torch.zeros(4).to(torch.float8_e4m3fn)},
}
FILES = {
    f"{title}, {'legacy' if legacy else 'zip'}": lambda trace, make=make, legacy=legacy: saved(make(trace), legacy)
    for title, make in VALUES.items()
    for legacy in (False, True)
} | {
    "plain pickle": lambda trace: pickle.dumps(Danger(trace)),
    "zip bomb": lambda _: compressed(saved({"a": torch.zeros(10**6)})),
    "truncated": lambda _: saved({"a": torch.zeros(1000)})[:2000],
    "text": lambda _: b"weights",
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_what_is_no_table_of_tensors(case, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "file.pth"
    path.write_bytes(FILES[case](trace))
    with pytest.raises(WeightFormatError, match=r"file\.pth"):
        read_pickle(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file.pth"]
