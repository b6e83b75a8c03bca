"""Weight files: the outputs of torchvision's networks, and one clear error for whatever is wrong."""

import hashlib
import io
import json
import os
import struct
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.stress.damage import mutate
from jaxml import config, models
from jaxml.models.weights import hub, pretrained, readers
from jaxml.models.weights.readers import WeightFormatError
from tests.models.weights import torchvision_weights

HEAVY = ("resnet50", "inception_v3")
PUBLISHED = Path(os.environ.get("JAXML_WEIGHTS", Path(__file__).parents[4] / "shared/data/weights"))
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published weights are not here")


def zeros(module, size=96):
    images = jnp.zeros((1, size, size, 3))
    shapes = jax.eval_shape(lambda key: module.init(key, images, train=False), jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


def network(name, **options):
    module = models.build(config.Model(backbone=name, **options))
    return module, zeros(module)


@pytest.fixture
def squeezenet(tmp_path):
    """A file of made-up weights, and the network that takes it."""
    path = tmp_path / "made_up.safetensors"
    save_file(torchvision_weights.weights("squeezenet1_1"), path, metadata={"origin": "made up"})
    return path, network("squeezenet1_1")[1]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY)) for name in torchvision_weights.NAMES],
)
def test_features_and_logits_are_torchvisions(name, tmp_path):
    """Stored outputs of torchvision's networks with the same made-up weights, at an odd size."""
    path = tmp_path / "weights.safetensors"
    save_file(torchvision_weights.weights(name), path)
    module, variables = network(name, head="classifier", feature_size=1000)
    variables, report = pretrained.load(path, variables, name, classifier=True)
    assert report["fresh"] == []

    def outputs(x):
        return module.bind(variables).backbone(x, False).mean((1, 2)), module.apply(variables, x, train=False)

    features, logits = jax.jit(outputs)(torchvision_weights.images(name, torchvision_weights.ODD_SIZE))
    with np.load(torchvision_weights.OUTPUTS) as stored:
        for ours, theirs in ((features, stored[f"{name}_features"]), (logits, stored[f"{name}_logits"])):
            assert ours.shape == theirs.shape
            assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)


@needs_published
def test_published_outputs_of_squeezenet():
    module, variables = network("squeezenet1_1", head="classifier", feature_size=1000)
    path = PUBLISHED / "squeezenet1_1.safetensors"
    variables, report = pretrained.load(path, variables, "squeezenet1_1", classifier=True)
    assert report["loaded"] == 1_235_496
    with np.load(PUBLISHED / "squeezenet1_1_golden.npz") as golden:
        for index in range(3):
            logits = module.apply(variables, golden[f"input_{index}"].transpose(0, 2, 3, 1), train=False)
            expected = golden[f"output_{index}"].reshape(1, 1000)
            assert expected.max() > 250
            np.testing.assert_allclose(logits, expected, atol=1e-3, rtol=0)


@needs_published
def test_a_file_without_classifier_leaves_the_head_fresh():
    _, variables = network("squeezenet1_1")
    path = PUBLISHED / "squeezenet1_1_features.safetensors"
    loaded, report = pretrained.load(path, variables, "squeezenet1_1")
    assert report["fresh"] == ["head/bias", "head/kernel"]
    assert report["loaded"] == 722_496
    assert len(report["sha256"]) == 64
    assert "Caffe" in report["metadata"]["source"]
    json.dumps(report)
    assert (loaded["params"]["head"]["kernel"] == 0).all()
    _, variables = network("squeezenet1_1", head="classifier", feature_size=1000)
    with pytest.raises(WeightFormatError, match=r"missing: params/head/kernel"):
        pretrained.load(path, variables, "squeezenet1_1", classifier=True)


def test_everything_that_does_not_fit_is_listed_at_once(squeezenet):
    path, variables = squeezenet
    table = load_file(path)
    table["features.3.squeeze.weight"] = table["features.3.squeeze.weight"][:, :32]
    table["features.0.bias"] = np.full_like(table["features.0.bias"], np.nan)
    table["features.99.weight"] = np.zeros(3, np.float32)
    table["classifier.2.weight"] = np.zeros(3, np.float32)
    del table["features.12.expand3x3.bias"]
    save_file(table, path)
    with pytest.raises(WeightFormatError) as error:
        pretrained.load(path, variables, "squeezenet1_1")
    lines = str(error.value).splitlines()
    assert path.name in lines[0]
    assert sorted(line.strip() for line in lines[1:]) == [
        "extra: classifier.2.weight [3]",
        "extra: features.99.weight [3]",
        "misshapen: features.3.squeeze.weight gives [1, 1, 32, 16], params/backbone/features_3/squeeze/kernel is "
        "[1, 1, 64, 16]",
        "missing: params/backbone/features_12/expand3x3/bias [256]",
        "not finite: features.0.bias",
    ]


def test_half_precision_files_become_float32(squeezenet, tmp_path):
    import ml_dtypes

    path, variables = squeezenet
    table = {name: array.astype(ml_dtypes.bfloat16) for name, array in load_file(path).items()}
    half = tmp_path / "half.safetensors"
    save_file(table, half)
    kernel = pretrained.load(half, variables, "squeezenet1_1")[0]["params"]["backbone"]["features_0"][
        "kernel"
    ]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, table["features.0.weight"].astype(np.float32).transpose(2, 3, 1, 0))


def test_npz_gives_the_same_as_safetensors(squeezenet, tmp_path):
    path, variables = squeezenet
    for save in (np.savez, np.savez_compressed):
        file = tmp_path / f"{save.__name__}.npz"
        table = load_file(path)
        table["features.0.weight"] = np.asfortranarray(table["features.0.weight"])
        save(file, **table)
        jax.tree.map(
            np.testing.assert_array_equal,
            pretrained.load(file, variables, "squeezenet1_1")[0],
            pretrained.load(path, variables, "squeezenet1_1")[0],
        )


def test_names_of_backbones_and_files(squeezenet, tmp_path):
    path, variables = squeezenet
    with pytest.raises(ValueError, match="no pretrained weights for simple"):
        pretrained.load(path, variables, "simple")
    with pytest.raises(FileNotFoundError):
        pretrained.load(tmp_path / "none.safetensors", variables, "squeezenet1_1")
    for name in ("weights.pth", "weights.h5"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(WeightFormatError, match=r"convert|are \.safetensors"):
            pretrained.load(tmp_path / name, variables, "squeezenet1_1")


@pytest.mark.parametrize(
    "address",
    [
        "hf://timm/resnet50",
        "hf://timm/resnet50/model.safetensors@main",
        "hf://../x/model.safetensors@" + "0" * 40,
    ],
)
def test_hub_addresses_must_be_pinned(address):
    with pytest.raises(ValueError, match="commit"):
        hub.fetch(address)


def test_hub_address_is_taken_apart(monkeypatch, squeezenet):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    path, variables = squeezenet
    calls = []

    def download(repo, file, *, revision):
        calls.append((repo, file, revision))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    address = "hf://some/model/sub/model.safetensors@" + "a1" * 20
    report = pretrained.load(address, variables, "squeezenet1_1")[1]
    assert calls == [("some/model", "sub/model.safetensors", "a1" * 20)]
    assert report["source"] == address


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("kind", ["large", "small"])
def test_downloads_are_compared_with_the_hubs_hash(monkeypatch, tmp_path, damaged, kind):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    data = b"weights"
    name = hashlib.sha256(data) if kind == "large" else hashlib.sha1(b"blob 7\0weights")
    blob, link = tmp_path / name.hexdigest(), tmp_path / "model.safetensors"
    blob.write_bytes(b"weightz" if damaged else data)
    link.symlink_to(blob)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kwargs: str(link))
    address = "hf://some/model/model.safetensors@" + "a1" * 20
    if not damaged:
        assert hub.fetch(address) == link
        return
    with pytest.raises(WeightFormatError, match=rf"{address}.*damaged.*{name.hexdigest()}"):
        hub.fetch(address)


def header(table, data=b"", length=None):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def zipped(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


class Danger:
    """An object that unpickles into a call that would create a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def object_npy(trace):
    buffer = io.BytesIO()
    np.save(buffer, np.array([Danger(trace)], object), allow_pickle=True)
    return buffer.getvalue()


def claiming(shape):
    """The header of an array of 8-byte numbers, without the array."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


F4 = b"\0" * 4
SAFETENSORS = {
    "empty": b"",
    "short": b"\1\0",
    "length beyond the file": header({}, length=2**62),
    "header of 100 MB": lambda _: struct.pack("<Q", 100 * 2**20) + b" " * (100 * 2**20),
    "no JSON": header(b"{]"),
    "no object": header(b"[1, 2]"),
    "not UTF-8": header(b'{"\xff": 1}'),
    "deep nesting": header(b"[" * 100_000),
    "huge integer": header(b'{"a": ' + b"9" * 100_000 + b"}"),
    "overlap": header({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, F4),
    "gap": header({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, 3 * F4),
    "does not start at 0": header({"a": entry([1], 4, 8)}, 2 * F4),
    "trailing bytes": header({"a": entry([1], 0, 4)}, 2 * F4),
    "truncated": header({"a": entry([2], 0, 8)}, F4),
    "absurd shape": header({"a": entry([2**40, 2**40], 0, 4)}, F4),
    "shape that overflows to fit": header({"a": entry([2**32, 2**32], 0, 0)}),
    "negative": header({"a": entry([-1, -1], 0, 4)}, F4),
    "backwards": header({"a": entry([1], 4, 0)}, F4),
    "float offsets": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}}, F4),
    "true as a size": header({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, F4),
    "shape is text": header({"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}, F4),
    "dtype unknown": header({"a": entry([1], 0, 4, "O")}, F4),
    "dtype is a list": header({"a": entry([1], 0, 4, ["F32"])}, F4),
    "further keys": header({"a": {**entry([1], 0, 4), "x": 1}}, F4),
    "entry is a number": header({"a": 3}),
    "entry is a list": header({"a": ["F32", [1], [0, 4]]}, F4),
    "name twice": header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        F4,
    ),
    "metadata is no table": header({"__metadata__": 3}),
    "metadata holds a number": header({"__metadata__": {"a": 1}}),
    "name with line ends": header({"a\n\x1b[2J": entry([2], 0, 4)}, F4),
    "hundred dimensions": header({"a": entry([1] * 100, 0, 4)}, F4),
}
NPZ = {
    "empty": b"",
    "no zip": b"PK\3\4" + b"\0" * 100,
    "object array": lambda trace: zipped([("a.npy", object_npy(trace))]),
    "zip bomb": lambda _: zipped([("a.npy", b"\0" * 10**8)], zipfile.ZIP_DEFLATED),
    "npy claims too much": zipped([("a.npy", npy(np.zeros(4, "<f4")).replace(b"(4,)", b"(9,)"))]),
    "npy claims gigabytes": zipped([("a.npy", claiming((2**30,)))]),
    "npy overflows to fit": zipped([("a.npy", claiming((2**32, 2**32)))]),
    "negative shape": zipped([("a.npy", claiming((-2, -2)) + 16 * b"\0")]),
    "bytes after the array": zipped([("a.npy", npy(np.zeros(4, "<f4")) + F4)]),
    "big-endian": zipped([("a.npy", npy(np.zeros(4, ">f4")))]),
    "wrong checksum": zipped([("a.npy", npy(np.full(4, 7, "<f4")))]).replace(
        np.full(4, 7, "<f4").tobytes(), 4 * F4
    ),
    "no npy inside": zipped([("../../a", b"text")]),
    "name twice": lambda _: zipped([("a.npy", npy(np.zeros(1, "<f4"))), ("a", npy(np.zeros(1, "<f4")))]),
    "strings": zipped([("a.npy", npy(np.array(["x"])))]),
    "header is a program": zipped(
        [("a.npy", b"\x93NUMPY\1\0\x46\0" + b"__import__('os').system('x')".ljust(69) + b"\n")]
    ),
    "truncated": zipped([("a.npy", npy(np.zeros(100, "<f4")))])[:300],
    "tar": lambda _: tarred(),
}


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("../a.npy")
        member.size = 4
        archive.addfile(member, io.BytesIO(F4))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("suffix", "data"),
    [pytest.param(".safetensors", data, id=f"safetensors-{name}") for name, data in SAFETENSORS.items()]
    + [pytest.param(".npz", data, id=f"npz-{name}") for name, data in NPZ.items()],
)
def test_malicious_and_damaged_files(suffix, data, tmp_path):
    """One error, within 2 s, without memory beyond the file's own, and nothing runs."""
    trace = tmp_path / "trace"
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data(trace) if callable(data) else data)
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(WeightFormatError, match=path.name) as error:
        readers.read(path)
    assert str(error.value).isprintable()
    assert time.monotonic() - start < 2
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name]


def test_only_regular_files_of_a_sensible_size(tmp_path):
    fifo, folder, large = (tmp_path / f"{name}.safetensors" for name in ("fifo", "folder", "large"))
    os.mkfifo(fifo)
    folder.mkdir()
    with large.open("wb") as file:
        file.truncate(2**40)
    for path in (fifo, folder, large):
        with pytest.raises(WeightFormatError, match=r"regular|bytes"):
            readers.read(path)


@pytest.mark.parametrize("parser", ["safetensors", "npz"])
def test_fuzzed_files(parser):
    """10,000 damaged inputs: arrays of the right sizes or WeightFormatError, nothing else."""
    arrays = {
        "layer.weight": np.ones((3, 2), "<f4"),
        "b": np.arange(5, dtype="<i8"),
        "c": np.zeros((0, 2), "<f2"),
    }
    buffer = io.BytesIO()
    if parser == "npz":
        np.savez(buffer, **arrays)
        data, parse = buffer.getvalue(), readers.parse_npz
    else:
        from safetensors.numpy import save

        data, parse = save(arrays, metadata={"k": "v"}), readers.parse_safetensors
    assert {name: array.tolist() for name, array in parse(io.BytesIO(data), len(data))[0].items()} == {
        name: array.tolist() for name, array in arrays.items()
    }
    rng, refused = np.random.default_rng(0), 0
    for _ in range(10_000):
        damaged = mutate(data, rng)
        try:
            tensors, metadata = parse(io.BytesIO(damaged), len(damaged))
        except WeightFormatError:
            refused += 1
        else:
            assert sum(array.nbytes for array in tensors.values()) <= len(damaged)
            assert all(isinstance(value, str) for value in metadata.values())
    assert refused > 5_000
