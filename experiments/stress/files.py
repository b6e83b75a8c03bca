"""Stress checks on files: damaged or hostile checkpoints, images, weights and archives."""

from __future__ import annotations

import contextlib
import dataclasses
import io
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

from experiments.stress.damage import hostile_weights, hurt, links, png, tarred, zipped
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
            wrong += 1  # the other checkpoint is undamaged
        else:
            step = int(found["step"])
            wrong += not equal(found, state(step))
            aside = opened.damaged()
            for other in set(opened.steps()) - {step}:
                try:
                    wrong += not equal(opened.restore(state(0), other)[0], state(other))
                except CheckpointError:
                    seen["older one refused"] += 1
            # Either the newest was restored, or it was set aside with nothing in it lost but what was damaged.
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
    """A data set of mostly damaged images, with and without a manifest of the undamaged ones."""
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
    # Without a manifest, only images that cannot be decoded are found.
    fresh_config = dataclasses.replace(config, cache=str(place.parent / "cache2"), on_error="skip")
    undecodable = [path for path in chosen if not _decodes(path)]
    left, listed = _skipping(fresh_config)
    figures["without a manifest: not decodable, listed"] = f"{len(undecodable)}, {listed}"
    return Outcome(passed and listed == len(undecodable) and left == len(paths) - listed, figures)


def _skipping(config) -> tuple[int, int]:
    """Numbers of images that are kept, and of lines in the list of those left out."""
    from jaxml import data

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        index = data.load(config)
    message = next(str(w.message) for w in caught if "left out" in str(w.message))
    listing = Path(message.split("listed in ")[1].split(": ")[0])
    return len(index.items), len(listing.read_text().splitlines())


def _decodes(path: Path) -> bool:
    """Whether Pillow alone decodes it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = Image.open(path)
            image.load()
    except Exception:
        return False
    return image.format in ("JPEG", "PNG", "BMP")


def weights(out: Path, quick: bool) -> Outcome:
    """Hostile weight files, read as training reads them and as `convert` does."""
    from jaxml.commands import weights as commands
    from jaxml.models.weights import readers
    from jaxml.models.weights.readers import WeightFormatError

    place = fresh(out, "weights").parent
    (place / "sub").mkdir()
    trace = place / "trace"
    longest = most = 0.0
    ways: list[Callable] = [
        readers.read,
        lambda path: commands.convert(path, place / "sub" / "converted.safetensors"),
    ]
    files, wrong = hostile_weights(), []
    if find_spec("h5py") is None:
        files = {name: make for name, make in files.items() if "external" not in name}
    for name, make in files.items():
        path = place / "sub" / name
        path.write_bytes(make(trace))
        for way in ways:
            Path("/proc/self/clear_refs").write_text("5")  # reset the peak of memory
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


def archives(out: Path, quick: bool) -> Outcome:
    """Archives with members outside the folder, given to tensorflow-datasets in place of downloads."""
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
    "archives": archives,
}
