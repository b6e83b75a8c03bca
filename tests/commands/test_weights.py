"""The verb `jaxml weights`."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.stress import torch_files
from jaxml.commands import weights
from jaxml.models.weights import readers
from tests.models.weights import torchvision_weights


@pytest.fixture
def squeezenet(tmp_path):
    """A file of made-up weights."""
    path = tmp_path / "made_up.safetensors"
    save_file(torchvision_weights.weights("squeezenet1_1"), path, metadata={"origin": "made up"})
    return path


def test_convert_and_inspect(squeezenet, tmp_path, capsys):
    source, target = tmp_path / "weights.npz", tmp_path / "weights.safetensors"
    np.savez(source, **load_file(squeezenet))
    weights.convert(source)
    for name, array in load_file(squeezenet).items():
        np.testing.assert_array_equal(load_file(target)[name], array)
    assert readers.read(target).metadata["converted_from_sha256"] == readers.read(source).sha256
    with pytest.raises(ValueError, match="exists already"):
        weights.convert(source)
    weights.inspect(target)
    printed = capsys.readouterr().out
    assert "squeezenet1_1: fits, with a classifier of 1000 classes" in printed
    assert "squeezenet1_0: does not fit" in printed
    assert "converted_from: weights.npz" in printed


@pytest.mark.parametrize("legacy", [False, True])
def test_convert_files_of_torch(tmp_path, legacy):
    source, target = tmp_path / "weights.pth", tmp_path / "other.safetensors"
    arrays = {"a": np.asfortranarray(np.arange(6, dtype="<f4").reshape(2, 3)), "n": np.array(7)}
    source.write_bytes(torch_files.save(arrays, legacy=legacy))
    weights.main(["convert", str(source), "--output", str(target)])
    found = load_file(target)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_list_and_path(installed, tmp_path, capsys):
    words = ["--cache", str(tmp_path)]
    line = lambda: next(  # noqa: E731
        text for text in capsys.readouterr().out.splitlines() if text.startswith("squeezenet1_1 ")
    )
    weights.main(["list", *words])
    assert line().split() == ["squeezenet1_1", "made-up-model", "Apache-2.0", "1.2", "no"]
    weights.main(["path", "squeezenet1_1", *words])
    path = capsys.readouterr().out.strip()
    assert load_file(path).keys() == torchvision_weights.weights("squeezenet1_1").keys()
    weights.main(["list", *words])
    assert line().split()[-1] == path


def test_command_line(squeezenet, tmp_path):
    run = lambda *words: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "jaxml", "weights", *map(str, words)],
        capture_output=True,
        text=True,
    )
    assert "efficientnet_lite0" in run("list").stdout
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(squeezenet.read_bytes()[:-1])
    result = run("inspect", damaged)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "truncated" in result.stderr
    assert "Traceback" not in result.stderr
