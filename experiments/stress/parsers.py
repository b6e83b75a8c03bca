"""Stress check of parsers: whatever is changed in a file, they read it or raise one of their own errors."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.stress import torch_files
from experiments.stress.damage import mutate
from experiments.stress.runs import Outcome


def _of_runs() -> dict[str, tuple[bytes, Callable[[bytes], object], tuple[type, ...]]]:
    """Valid files of a run by name, each with its parser and the errors that it may raise."""
    from jaxml import config
    from jaxml.config.presets import PRESETS
    from jaxml.errors import CheckpointError
    from jaxml.training import history
    from jaxml.training import input_triplets as triplets

    path = Path(tempfile.gettempdir()) / f"jaxml-fuzz-{os.getpid()}"
    rows = "".join(f'{{"step": {i}, "loss": {0.1 * i}}}\n' for i in range(1, 9))
    lists = io.BytesIO()
    np.savez(lists, triplets=np.arange(24).reshape(8, 3))

    def named(read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def parse(data: bytes) -> object:
            path.write_bytes(data)
            try:
                return read(path)
            except (ValueError, CheckpointError) as error:
                if str(path) not in str(error) or len(str(error).splitlines()) > 1:
                    raise AssertionError(f"not one line with {path}: {error}") from error
                raise
            finally:
                path.unlink()

        return parse

    preset = json.dumps(config.to_dict(PRESETS["cub_squeezenet"]), indent=2).encode()
    return {
        "config": (preset, named(config.load), (ValueError,)),
        "metrics": (rows.encode(), named(history.read), (ValueError,)),
        "triplets": (lists.getvalue(), named(lambda path: triplets._load(path, 8, 24)), (CheckpointError,)),
    }


def _parsers() -> dict[str, tuple[bytes, Callable[[bytes], object], tuple[type, ...]]]:
    """Valid inputs by name, each with its parser and the errors that it may raise."""
    from safetensors.numpy import save

    from jaxml.data import manifest
    from jaxml.data.decode import open_image
    from jaxml.data.index import ImageError
    from jaxml.data.sources import unlabelled
    from jaxml.models.weights import readers
    from jaxml.models.weights.pickles import parse_pickle
    from jaxml.models.weights.readers import WeightFormatError

    tensors = {"w": np.ones((3, 2), "<f4"), "b": np.arange(5, dtype="<i8"), "c": np.zeros((0, 2), "<f2")}
    npz = io.BytesIO()
    np.savez(npz, **tensors)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    encoded = {kind: io.BytesIO() for kind in ("JPEG", "PNG", "BMP")}
    for kind, buffer in encoded.items():
        picture.save(buffer, kind)

    def parse(function: Callable) -> Callable[[bytes], object]:
        return lambda data: function(io.BytesIO(data), len(data))

    found = {
        "safetensors": (save(tensors), parse(readers.parse_safetensors), (WeightFormatError,)),
        "npz": (npz.getvalue(), parse(readers.parse_npz), (WeightFormatError,)),
    }
    for kind, legacy in (("pth", False), ("legacy pth", True)):
        pth = torch_files.save(tensors, legacy=legacy)
        found[kind] = (pth, parse(parse_pickle), (WeightFormatError,))
    found |= _of_runs()
    for kind, buffer in encoded.items():
        found[kind] = (buffer.getvalue(), lambda data: open_image(data, "x"), (ImageError,))
    hashes = {f"class/{i}.jpg": hashlib.sha256(bytes([i])).hexdigest() for i in range(3)}
    manifest_file = json.dumps(hashes, indent=0).encode()
    found["manifest"] = (
        manifest_file,
        _naming("m.json", lambda data: manifest.parse(data, "m.json")),
        (ValueError,),
    )
    boxes = b'file,left,top,width,height\na.jpg,1,2.5,30,40\n"b,\n.jpg",0,0,1e3,7\n'
    found["boxes"] = (
        boxes,
        _naming("b.csv", lambda data: unlabelled.parse_boxes(data, "b.csv")),
        (ValueError,),
    )
    return found


def _naming(name: str, parse: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """A parser whose errors must be one line with the name of the file."""

    def parsed(data: bytes) -> object:
        try:
            return parse(data)
        except ValueError as error:
            if name not in str(error) or len(str(error).splitlines()) > 1:
                raise AssertionError(f"not one line with {name}: {error}") from error
            raise

    return parsed


def fuzz_one(name: str, count: int, seed: int) -> tuple[int, list[str]]:
    """The number of damaged inputs that a parser refused, and the errors that it should not have raised."""
    data, parse, allowed = _parsers()[name]
    rng, refused, wrong = np.random.default_rng(seed), 0, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(count):
            damaged = mutate(data, rng)
            try:
                parse(damaged)
            except allowed:
                refused += 1
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}"[:200])
    return refused, wrong


def fuzz(out: Path, quick: bool) -> Outcome:
    """Every parser of foreign files with randomly damaged inputs."""
    count = 10_000 if quick else 100_000
    figures: dict[str, object] = {"inputs for each": count}
    passed = True
    for name in _parsers():
        begin = time.monotonic()
        refused, wrong = fuzz_one(name, count, 5)
        passed &= not wrong and refused > 0
        figures[name] = f"{refused} refused in {time.monotonic() - begin:.0f} s" + (
            f", {wrong[0]}" if wrong else ""
        )
    return Outcome(passed, figures)


CHECKS = {"fuzz": fuzz}
