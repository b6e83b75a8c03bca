"""PyTorch's weight files without PyTorch: sound ones in both formats, and one named error for whatever is wrong."""

import io
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from functools import partial

import ml_dtypes
import numpy as np
import pytest

from experiments.stress import torch_files
from experiments.stress.damage import Command, hostile_weights, mutate
from experiments.stress.torch_files import Entry, legacy_file, table, text, whole, zip_file
from jaxml.models.weights.pickles import parse_pickle, read_pickle
from jaxml.models.weights.readers import DTYPES as READ
from jaxml.models.weights.readers import WeightFormatError
from jaxml.models.weights.unpickling import STORAGES

DTYPES = ["<f8", "<f4", "<f2", ml_dtypes.bfloat16, "<i8", "<i4", "<i2", "i1", "u1", "?"]
F4 = np.arange(24, dtype="<f4")
FLOATS = F4.tobytes()


def parse(data):
    return parse_pickle(io.BytesIO(data), len(data))[0]


def both(entries, data=FLOATS, count=24):
    """The same table in both formats, with one storage, 0."""
    return [
        zip_file(table(entries), {"0": data}),
        legacy_file(table(entries), {"0": (count, data)}),
    ]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_shapes_and_orders(dtype, legacy):
    values = np.random.default_rng(0).integers(0, 100, (4, 3, 2)).astype(dtype)
    arrays = {
        "layer.weight": values,
        "channels_last": np.asfortranarray(values),
        "scalar": values[0, 0, 0].reshape(()),
        "empty": values[:, :0],
    }
    found = parse(torch_files.save(arrays, legacy=legacy))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert found[name].flags.c_contiguous
        assert found[name].flags.aligned


@pytest.mark.parametrize("format_", [0, 1], ids=["zip", "legacy"])
def test_tensors_that_share_a_storage(format_):
    float_ = partial(Entry, "0", "FloatStorage", 24)
    entries = {
        "columns": float_(1, (3, 4), (1, 6)),
        "every second": float_(0, (12,), (2,)),
        "last": float_(23, (), ()),
        "repeated": float_(5, (2, 2), (0, 1)),
        "none": float_(24, (0, 7), (7, 1)),
    }
    found = parse(both(entries)[format_])
    assert {name: array.tolist() for name, array in found.items()} == {
        "columns": [[1 + i + 6 * j for j in range(4)] for i in range(3)],
        "every second": [2 * i for i in range(12)],
        "last": 23,
        "repeated": [[5, 6], [5, 6]],
        "none": [],
    }


def test_two_names_for_one_storage():
    """As of tied weights; more names would be a way to fill the memory, see "many names" below."""
    found = parse(with_many_names(names=2))
    np.testing.assert_array_equal(found["1"], np.arange(10_000, dtype="<f4"))


def test_a_table_of_parameters():
    parameter = b"ctorch._utils\n_rebuild_parameter\n(%s\x88%stR" % (
        whole("0", F4).opcodes(),
        torch_files.HOOKS,
    )
    found = parse(zip_file(b"\x80\2}%s%ss." % (text("a"), parameter), {"0": FLOATS}))
    np.testing.assert_array_equal(found["a"], F4)


def test_every_type_can_be_read_after_conversion():
    assert {*STORAGES.values()} == {*READ.values()}


def test_torch_is_not_imported(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(torch_files.save({"a": F4}, legacy=True))
    program = (
        "import sys; from pathlib import Path; from jaxml.models.weights.pickles import read_pickle; "
        "assert read_pickle(Path(sys.argv[1])).tensors; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True)


def value(opcodes):
    """A table with one entry that is pickled by these opcodes."""
    return b"\x80\2}%s%ss." % (text("a"), opcodes)


def entry(**changes):
    return {"a": whole("0", F4, **changes)}


def nested_keys(depth=100):
    """A key whose hash takes 2^depth steps: tuples of a tuple twice."""
    return b"\x80\2}" + b")" + b"".join(b"q%c0h%c\x86" % (i, i) for i in range(depth)) + b"Ns."


ENTRIES = {
    "offset beyond": entry(offset=1),
    "far offset": entry(offset=2**62),
    "negative offset": entry(offset=-1),
    "shape beyond": entry(shape=(25,)),
    "stride beyond": entry(shape=(3, 8), strides=(9, 1)),
    "strides that overflow to fit": entry(shape=(5,), strides=(2**62,)),
    "sizes that overflow to fit": entry(shape=(2**32, 2**32), strides=(1, 1)),
    "sizes that overflow to zero": entry(shape=(2**32, 2**32), strides=(0, 0)),
    "offset that overflows": entry(offset=2**64),
    "negative size": entry(shape=(-1, -24), strides=(1, 1)),
    "negative stride": entry(offset=23, strides=(-1,)),
    "huge integers": entry(shape=(2**2000,) * 60, strides=(2**2000,) * 60),
    "sizes without strides": entry(strides=()),
    "hundred dimensions": entry(shape=(1,) * 100, strides=(1,) * 100),
    "huge empty": entry(shape=(2**62, 2**62, 0), strides=(1, 1, 1)),
    "expanded": entry(shape=(2**40,), strides=(0,)),
    "storage too long": entry(count=25),
    "storage too short": entry(count=23, shape=(2,)),
    "storage of a negative length": entry(count=-24, shape=(0,)),
    "storage missing": {"a": whole("1", F4)},
    "type unknown": entry(kind="QInt8Storage"),
    "type is no storage": entry(kind="Tensor"),
    "name twice": [("a", whole("0", F4)), ("a", whole("0", F4))],
    "sparse": entry(rebuild="torch._utils\n_rebuild_sparse_tensor"),
    "unknown global": entry(rebuild="os\nsystem"),
    "known name in another module": entry(rebuild="torch_utils\n_rebuild_tensor_v2"),
}
PICKLED = {
    "no pickle": b"weights",
    "no end": table(entry())[:-1],
    "call of os.system": lambda trace: pickle.dumps({"a": Command(trace)}, 2),
    "call of os.system, newest protocol": lambda trace: pickle.dumps({"a": Command(trace)}),
    "call of eval": value(b"cbuiltins\neval\n%s\x85R" % text("1")),
    "endless name": value(b"c%s\neval\n)R" % (b"x" * 10**5)),
    "endless name twice": b"\x80\2}(%sN%sNu." % ((text("x" * 10**5),) * 2),
    "attributes of a function": value(b"ctorch._utils\n_rebuild_tensor_v2\n}b"),
    "instance": value(b"(ctorch._utils\n_rebuild_tensor_v2\no"),
    "new object": value(b"ccollections\nOrderedDict\n)\x81"),
    "table made of pairs": value(b"ccollections\nOrderedDict\n]\x85R"),
    "persistent id is text": value(text("storage") + b"Q"),
    "persistent id of a module": value(
        b"(%sctorch\nFloatStorage\n%s%sK\1NtQ" % (text("module"), text("0"), text("cpu"))
    ),
    "part of a storage": value(
        b"(%sctorch\nFloatStorage\n%s%sK\x18%stQ"
        % (text("storage"), text("0"), text("cpu"), torch_files.numbers((1, 0, 1)))
    ),
    "storage is a number": value(b"ctorch._utils\n_rebuild_tensor_v2\n(K\0K\0))\x89%stR" % torch_files.HOOKS),
    "negated": value(
        whole("0", F4).opcodes().removesuffix(b"tR") + b"}%s\x88stR" % text("neg")
    ),
    "nested table": value(b"}"),
    "list": b"\x80\2]N\x61.",
    "tensor alone": b"\x80\2%s." % whole("0", F4).opcodes(),
    "table of numbers": value(b"K\1"),
    "table that holds itself": b"\x80\2}q\0%sh\0s." % text("a"),
    "name is a number": b"\x80\2}K\1%ss." % whole("0", F4).opcodes(),
    "name whose hash takes forever": nested_keys(),
    "name without a value": b"\x80\2}(%su." % text("a"),
    "empty stack": b"\x80\2a.",
    "no mark": b"\x80\2t.",
    "unknown memo": b"\x80\2h\5.",
    "memo of gigabytes": b"\x80\2Nr\xff\xff\xff\x0f.",
    "text of gigabytes": b"\x80\2X\xff\xff\xff\xffabc.",
    "two values": b"\x80\2}}.",
    "ten million tables": lambda _: b"\x80\2(" + b"}" * 10**7 + b"t.",
    "name that is not UTF-8": b"\x80\2}X\1\0\0\0\xffNs.",
    "name with line ends": b"\x80\2}(%sN%sNu." % ((text("a\n\x1b[2J"),) * 2),
}  # fmt: skip


def with_many_names(names=50, count=10_000):
    """A table in which a storage that is most of the file has so many names."""
    entries = {str(i): Entry("0", "FloatStorage", count, 0, (count,), (1,)) for i in range(names)}
    return zip_file(table(entries), {"0": np.arange(count, dtype="<f4").tobytes()})


def zipped(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


SOUND = {legacy: torch_files.save({"a": F4, "b": F4[:5]}, legacy=legacy) for legacy in (False, True)}
FILES = {
    "empty": b"",
    "zip cut": SOUND[False][:-1],
    "zip, wrong checksum": SOUND[False].replace(FLOATS, FLOATS[::-1]),
    "zip, big-endian": zip_file(table(entry()), {"0": FLOATS}, byteorder=b"big"),
    "zip, bytes after the pickle": zip_file(table(entry()) + b"N.", {"0": FLOATS}),
    "zip, compressed": zipped(
        [("archive/data.pkl", table(entry())), ("archive/data/0", FLOATS)], zipfile.ZIP_DEFLATED
    ),
    "zip, no pickle": zipped([("archive/data/0", FLOATS)]),
    "zip, two pickles": zipped([("a/data.pkl", table({})), ("b/data.pkl", table({}))]),
    "zip, climbing names": zipped([("archive/data.pkl", table(entry())), ("archive/data/../../0", FLOATS)]),
    "zip, many names for one storage": with_many_names(),
    "legacy, cut": SOUND[True][:-1],
    "legacy, bytes after the end": SOUND[True] + b"\0",
    "legacy, big-endian": legacy_file(
        table(entry()), {"0": (24, FLOATS)}, system={**torch_files.SYSTEM, "little_endian": False}
    ),
    "legacy, system is a number": legacy_file(table(entry()), {"0": (24, FLOATS)}, system=1),
    "legacy, another magic number": b"\x80\2K\1." + SOUND[True],
    "legacy, two storages of one key": legacy_file(
        table(entry()), {"0": (24, FLOATS), "1": (24, FLOATS)}, keys=["0", "0"]
    ),
    "legacy, a storage too many": legacy_file(table(entry()), {"0": (24, FLOATS), "1": (24, FLOATS)}),
    "legacy, a key too few": legacy_file(table(entry()), {"0": (24, FLOATS)}, keys=[]),
    "legacy, keys are numbers": legacy_file(table(entry()), {"0": (24, FLOATS)}, keys=[0]),
    "legacy, keys are no list": legacy_file(table(entry()), {"0": (24, FLOATS)}, keys=7),
    "legacy, storage of a negative length": legacy_file(table(entry()), {"0": (-1, FLOATS)}),
    "legacy, storage longer than the file": legacy_file(table(entry()), {"0": (2**61, FLOATS)}),
    "legacy, storage of another length": legacy_file(table(entry()), {"0": (23, FLOATS)}),
}


def in_both_formats(pickled):
    return (
        lambda trace: zip_file(pickled(trace) if callable(pickled) else pickled, {"0": FLOATS}),
        lambda trace: legacy_file(pickled(trace) if callable(pickled) else pickled, {"0": (24, FLOATS)}),
    )


CASES = {name: (lambda _, data=data: data) for name, data in FILES.items()}
for title, pickled in {**{name: table(entries) for name, entries in ENTRIES.items()}, **PICKLED}.items():
    CASES[f"zip, {title}"], CASES[f"legacy, {title}"] = in_both_formats(pickled)
CASES |= {name: make for name, make in hostile_weights().items() if name.endswith((".pth", ".pt", ".bin"))}


@pytest.mark.parametrize("case", CASES)
def test_hostile_and_damaged_files(case, tmp_path):
    """One error, without much memory, and nothing runs."""
    trace, path = tmp_path / "trace", tmp_path / "file.pth"
    path.write_bytes(CASES[case](trace))
    tracemalloc.start()
    with pytest.raises(WeightFormatError, match=r"file\.pth") as error:
        read_pickle(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000
    assert peak < 2**26
    assert [file.name for file in tmp_path.iterdir()] == ["file.pth"]


@pytest.mark.parametrize("legacy", [False, True])
def test_every_cut_is_noticed(legacy):
    for length in range(len(SOUND[legacy])):
        with pytest.raises(WeightFormatError):
            parse(SOUND[legacy][:length])


@pytest.mark.parametrize("legacy", [False, True])
def test_fuzzed_files(legacy):
    """3,000 damaged inputs: arrays of a bounded size or WeightFormatError, nothing else."""
    arrays = {"layer.weight": np.ones((3, 2), "<f4"), "b": np.arange(5), "c": np.zeros((0, 2), "<f2")}
    data = torch_files.save(arrays, legacy=legacy)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(3_000):
        damaged = mutate(data, rng)
        try:
            tensors = parse(damaged)
        except WeightFormatError:
            refused += 1
        else:
            assert sum(array.nbytes for array in tensors.values()) <= 2 * len(damaged)
    assert refused > 1_500
