"""Checks of stress.py on files: checkpoints, images, weights, archives that are damaged or meant to do harm."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import re
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.stress import parsers
from experiments.stress.damage import hostile_weights, hurt, links, mutate, png, tarred, zipped
from experiments.stress.runs import Outcome, fresh


def checkpoints(out: Path, quick: bool) -> Outcome:
    """Flipped bits, cuts and deletions over all files of all checkpoints of a run."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxml.errors import CheckpointError
    from jaxml.training.checkpoint import Checkpoints

    def state(shift: float) -> dict:
        params = {"kernel": jnp.arange(600.0).reshape(20, 30) + shift, "bias": jnp.ones(7, jnp.bfloat16)}
        return {"step": jnp.int32(shift), "params": params, "opt_state": optax.adam(1e-3).init(params)}

    def equal(a, b) -> bool:
        return jax.tree.all(
            jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
        )

    place = fresh(out, "checkpoints")
    saved = Checkpoints(place / "checkpoints", writer=True)
    for step in (1, 2):
        saved.save(step, state(step), score=None, meta={"config": {"rate": 0.125}})
    rng, seen, wrong = np.random.default_rng(3), Counter(), 0
    for name in ("jaxml.training.checkpoint", "absl"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for i in range(40 if quick else 200):
        copy = place.with_name(f"{i}")
        shutil.copytree(place, copy)
        files = sorted(path for path in (copy / "checkpoints").rglob("*") if path.is_file())
        path = files[int(rng.integers(len(files)))]
        hurt(path, "flip" if i % 2 else ("cut", "delete")[i // 2 % 2], rng)
        opened = Checkpoints(copy / "checkpoints", writer=True)
        try:
            found, _ = opened.restore_newest(state(0))
        except CheckpointError:
            seen["stopped"] += 1
            wrong += 1  # the other checkpoint is sound
        else:
            step = int(found["step"])
            wrong += not equal(found, state(step))
            aside = opened.damaged()
            for other in set(opened.steps()) - {step}:
                try:
                    wrong += not equal(opened.restore(state(0), other)[0], state(other))
                except CheckpointError:
                    seen["older one refused"] += 1
            # The newest, or the older one with the newest set aside, whole but for the damage.
            wrong += (step, aside) not in ((2, []), (1, ["2"]))
            kept = sum(path.is_file() for path in copy.rglob("*"))
            wrong += kept < len(files) - 1
            seen["older one used" if step == 1 else "newest unharmed"] += 1
        shutil.rmtree(copy)
    for path in (place / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    try:
        Checkpoints(place / "checkpoints").restore_newest(state(0))
    except CheckpointError:
        stopped = True
    else:
        stopped = False
    figures = {"damages": 40 if quick else 200, **seen, "wrong values": wrong, "none sound: stops": stopped}
    return Outcome(wrong == 0 and stopped and seen["older one used"] > 0, figures)


def images(out: Path, quick: bool) -> Outcome:
    """A data set most of whose pictures are damaged, with and without a manifest from before."""
    from jaxml import data
    from jaxml.config import Data
    from jaxml.data import ImageError

    count, sound = (100, 20) if quick else (1000, 50)
    place = fresh(out, "images")
    rng = np.random.default_rng(4)
    for i in range(count + sound):
        folder = place / f"class{i % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((32, 32))
        small.save(folder / f"{i}.{('jpg', 'png', 'bmp')[i % 3]}")
    config = Data(source="folder", root=str(place), cache=str(place.parent / "cache"), stored_size=16)
    data.load(config)
    paths = sorted(place.rglob("*.*"))
    chosen = [paths[i] for i in rng.permutation(len(paths))[:count]]
    kinds = ("flip", "cut", "empty", "text", "gif", "bomb", "other")
    before = {path: path.read_bytes() for path in paths}
    for i, path in enumerate(chosen):
        kind = kinds[i % len(kinds)]
        if kind in ("flip", "cut", "empty"):
            hurt(path, kind, rng)
        else:
            replaced = {
                "text": b"no image",
                "gif": b"GIF89a" + bytes(40),
                "bomb": png(30_000, 30_000, bytes(10_000)),
            }
            path.write_bytes(replaced.get(kind, before[chosen[i - 1]]))
    really = [path for path in chosen if path.read_bytes() != before[path]]
    figures: dict[str, object] = {"damaged": len(really)}
    try:
        data.load(config)
        strict = 0
    except ImageError as error:
        strict = int(re.match(r"(\d+) image", str(error))[1])  # type: ignore[index]
    figures["strict: counted in the error"] = strict
    left, listed = _skipping(dataclasses.replace(config, on_error="skip"))
    figures["skip: listed"] = listed
    passed = strict == listed == len(really) and left == len(paths) - len(really)
    # No manifest: only what can not be decoded can be known.
    fresh_config = dataclasses.replace(config, cache=str(place.parent / "cache2"), on_error="skip")
    undecodable = [path for path in chosen if not _decodes(path)]
    left, listed = _skipping(fresh_config)
    figures["without a manifest: not decodable, listed"] = f"{len(undecodable)}, {listed}"
    return Outcome(passed and listed == len(undecodable) and left == len(paths) - listed, figures)


def _skipping(config) -> tuple[int, int]:
    """Images left, and lines in the list of those left out."""
    from jaxml import data

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        index = data.load(config)
    message = next(str(w.message) for w in caught if "left out" in str(w.message))
    listing = Path(message.split("listed in ")[1].split(": ")[0])
    return len(index.items), len(listing.read_text().splitlines())


def _decodes(path: Path) -> bool:
    """By Pillow alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = Image.open(path)
            image.load()
    except Exception:
        return False
    return image.format in ("JPEG", "PNG", "BMP")


def weights(out: Path, quick: bool) -> Outcome:
    """Hostile weight files: read as training reads them, and as `convert` does."""
    from jaxml.models.weights import pretrained
    from jaxml.models.weights import readers as weight_files
    from jaxml.models.weights.readers import WeightFormatError

    place = fresh(out, "weights").parent
    (place / "sub").mkdir()
    trace = place / "trace"
    longest = most = 0.0
    ways: list[Callable] = [weight_files.read]
    try:
        import torch  # noqa: F401

        ways.append(lambda path: pretrained.convert(path, place / "sub" / "converted.safetensors"))
    except ImportError:
        pass
    files, wrong = hostile_weights(), []
    if find_spec("h5py") is None:
        files = {name: make for name, make in files.items() if "external" not in name}
    for name, make in files.items():
        path = place / "sub" / name
        path.write_bytes(make(trace))
        for way in ways:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak
            before, begin = _peak(), time.monotonic()
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    way(path)
                wrong.append(name)
            except WeightFormatError as error:
                if name not in str(error) or len(str(error).splitlines()) > 1:
                    wrong.append(name)
            longest = max(longest, time.monotonic() - begin)
            most = max(most, _peak() - before)
        path.unlink()
    left = sorted(path.name for path in place.rglob("*") if path.is_file())
    figures = {
        "files": len(files),
        "ways to read": len(ways),
        "not refused by one WeightFormatError": ", ".join(wrong) or "none",
        "left behind or executed": ", ".join(left) or "nothing",
        "longest, s": round(longest, 2),
        "most memory, MiB": round(most),
    }
    return Outcome(not wrong and not left and longest < 2 and most < 128, figures)


def _peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def _parsers() -> dict[str, tuple[bytes, Callable[[bytes], object], tuple[type, ...]]]:
    """A sound input, the parser, and the errors that it may raise, by name."""
    from safetensors.numpy import save

    from jaxml.data import manifest
    from jaxml.data.decode import open_image
    from jaxml.data.index import ImageError
    from jaxml.data.sources import unlabelled
    from jaxml.models.weights import readers as weight_files
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
        "safetensors": (save(tensors), parse(weight_files.parse_safetensors), (WeightFormatError,)),
        "npz": (npz.getvalue(), parse(weight_files.parse_npz), (WeightFormatError,)),
    }
    found |= parsers.of_runs()
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
    try:
        import torch
    except ImportError:
        return found
    from jaxml.models.weights.pickles import parse_pickle

    pth = io.BytesIO()
    torch.save({"w": torch.ones(3, 2), "b": torch.arange(5)}, pth)
    found["pickle"] = (pth.getvalue(), parse(parse_pickle), (WeightFormatError,))
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
    """How many damaged inputs a parser has refused, and errors that it should not raise."""
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


def archives(out: Path, quick: bool) -> Outcome:
    """Archives that would be unpacked elsewhere, given to tensorflow-datasets as its downloads are."""
    if find_spec("tensorflow") is None:
        return Outcome(None, {"why": "tensorflow-datasets unpacks by tensorflow, which is not here"})
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import extractor, resource

    place = fresh(out, "archives").parent / "a" / "b"
    place.mkdir(parents=True)
    trace = place.parent / "trace"
    kinds = resource.ExtractMethod
    (place / "bad.tar").write_bytes(tarred(links(trace)))
    (place / "bad.zip").write_bytes(
        zipped([(f"../{trace.name}", b"x"), (str(trace), b"x"), ("ok.txt", b"x")])
    )
    made = []
    for name, method in (("bad.tar", kinds.TAR), ("bad.tar", kinds.TAR_STREAM), ("bad.zip", kinds.ZIP)):
        unpack = extractor.get_extractor()
        target = place / f"to-{method.name}"
        with contextlib.suppress(extractor.ExtractError), unpack.tqdm():
            unpack.extract(place / name, method, target).get()
        made += [path for path in target.rglob("*") if path.is_symlink()]
    outside = [
        p.name
        for p in place.parent.parent.rglob("*")
        if p.is_file() and p.parent in (place.parent, place.parent.parent)
    ]
    outside += [path.name for path in made]
    figures = {
        "tensorflow-datasets": tfds.__version__,
        "files outside or links": ", ".join(outside) or "none",
    }
    return Outcome(not outside and not trace.exists(), figures)


CHECKS = {
    "checkpoints": checkpoints,
    "images": images,
    "weights": weights,
    "fuzz": fuzz,
    "archives": archives,
}
