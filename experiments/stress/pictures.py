"""Stress check of decoding odd images.

Each is decoded in a process of its own, which measures time and memory. Every path must give Pillow's pixels, or one
ImageError with the name of the file.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import re
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.stress.corpus import corpus
from experiments.stress.runs import Outcome, fresh

SIDE = 24  # side to which images are decoded
SECONDS, MEGABYTES = 2.0, 512


def _serve(pipe: Connection, folder: str) -> None:
    """Decode image after image; sends (digest or "", error message, CPU seconds, MB above the memory before)."""
    from jaxml.data.decode import decode
    from jaxml.data.index import ImageError

    def status(field: str) -> float:
        text = Path("/proc/self/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+)", text)[1]) * 1024 / 1e6  # type: ignore[index]

    now = int(status("VmSize") * 1e6)
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**31, now + 2**31))  # to protect the machine
    warnings.simplefilter("ignore")
    while name := pipe.recv():
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak of memory
        begin, before = time.process_time(), status("VmRSS")
        try:
            digest, said = hashlib.sha256(decode(f"{folder}/{name}", name, None, SIDE)).hexdigest(), ""
        except ImageError as error:
            digest, said = "", str(error)
        except Exception as error:
            digest, said = "", f"{type(error).__name__}, no ImageError: {error}"
        pipe.send((digest, said, time.process_time() - begin, status("VmHWM") - before))


class Decoding:
    """A process that decodes images, and is killed if one of them takes too long."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["jaxml.data.decode"])
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, str(self._folder)), daemon=True)
        self._process.start()
        other.close()

    def __call__(self, name: str) -> tuple[str, str, float, float]:
        """What `_serve` sends for an image."""
        self._pipe.send(name)
        try:
            if self._pipe.poll(60):
                return self._pipe.recv()
            said = "did not end in 60 s"
        except EOFError:
            said = "ended the process"
        self.stop()
        self._start()
        return "", said, 60.0, 0.0

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def by_pillow(path: Path) -> str:
    """Digest of an image as Pillow alone decodes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            rgb = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return hashlib.sha256(np.asarray(rgb)).hexdigest()


def paths(place: Path) -> dict[str, Callable[[list[str]], Iterator[str]]]:
    """Ways to decode the images of a folder: each gives digests, up to the error of the first damaged image."""
    from jaxml.config import Data
    from jaxml.data import ImageError, Index, decode
    from jaxml.data.sources.unlabelled import Pictures

    def index(names: list[str]) -> Index:
        items = [str(place / name) for name in names]
        return Index(items, np.zeros(len(names), np.int32), None, ("all",), tuple(names))

    def resident(names: list[str]) -> Iterator[np.ndarray]:
        return decode.decode_all(index(names), size=SIDE, crop_to_box=False)

    def streamed(names: list[str]) -> Iterator[np.ndarray]:
        from jaxml.data.streamed import batches

        rows = ([i] for i in range(len(names)))
        for batch in batches(index(names), Data(stored_size=SIDE), map(np.array, rows)):
            yield from batch

    def unlabelled(names: list[str]) -> Iterator[np.ndarray]:
        for image in Pictures(place, tuple(names)).decode(SIDE):
            if isinstance(image, ImageError):
                raise image
            yield image

    ways = {"resident": resident, "unlabelled": unlabelled}
    if find_spec("tensorflow"):
        ways["tf.data"] = streamed
    return {
        way: lambda names, read=read: (
            hashlib.sha256(np.ascontiguousarray(x)).hexdigest() for x in read(names)
        )
        for way, read in ways.items()
    }


def pictures(out: Path, quick: bool) -> Outcome:
    """The corpus: limits of time and memory, and the same pixels, or the same error with the name, on every path."""
    from jaxml.data import ImageError

    place = fresh(out, "pictures")
    expected = corpus(place, quick)
    decoding = Decoding(place)
    found = {name: decoding(name) for name in expected}
    decoding.stop()
    wrong: dict[str, str] = {}
    for name, (digest, said, seconds, megabytes) in found.items():
        if seconds > SECONDS or megabytes > MEGABYTES:
            wrong[name] = f"{seconds:.1f} s, {megabytes:.0f} MB"
        elif expected[name] not in (None, bool(digest)) or "no ImageError" in said:
            wrong[name] = said or "decoded"
        elif said and (name not in said or len(said.splitlines()) > 1):
            wrong[name] = f"not one line with the name: {said}"
        elif digest and digest != by_pillow(place / name):
            wrong[name] = "other pixels than Pillow's"
    sound = [name for name, (digest, *_) in found.items() if digest]
    refused = [name for name in found if name not in sound]
    for way, read in paths(place).items():
        others = [name for name, digest in zip(sound, read(sound), strict=True) if digest != found[name][0]]
        wrong |= dict.fromkeys(others, f"other pixels: {way}")
        for name in refused[:: 10 if quick else 1]:
            try:
                list(read([name]))
                wrong[name] = f"decoded: {way}"
            except ImageError as error:
                if str(error) != found[name][1]:
                    wrong[name] = f"another error, {way}: {error}"
    slowest = max(found, key=lambda name: found[name][2])
    greatest = max(found, key=lambda name: found[name][3])
    figures = {
        "pictures": len(found),
        "decoded to the same pixels": f"{len(sound)} on {len(paths(place))} paths",
        "refused by one ImageError": len(refused),
        "wrong": "; ".join(f"{name}: {what}" for name, what in wrong.items()) or "none",
        "longest": f"{found[slowest][2]:.2f} s of CPU ({slowest})",
        "most memory": f"{found[greatest][3]:.0f} MB ({greatest})",
    }
    return Outcome(not wrong, figures)


CHECKS = {"pictures": pictures}
