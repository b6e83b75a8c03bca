"""Stress check of decoding odd images.

Each is decoded in a process of its own, which measures time and memory. Every path must give Pillow's pixels, or one
ImageError with the name of the file.
"""

from __future__ import annotations

import io
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
from PIL import Image, ImageOps

from experiments.stress.corpus import corpus
from experiments.stress.runs import Outcome, fresh
from jaxml.data.formats import transparent
from jaxml.data.orientation import upright

SIDE = 24  # side to which images are decoded
SECONDS, MEGABYTES = 2.0, 512


def _serve(pipe: Connection, folder: str) -> None:
    """Decode image after image; sends (pixels or none, error message, CPU seconds, MB above the memory before)."""
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
            pixels, said = decode(f"{folder}/{name}", name, None, SIDE).tobytes(), ""
        except ImageError as error:
            pixels, said = b"", str(error)
        except Exception as error:
            pixels, said = b"", f"{type(error).__name__}, no ImageError: {error}"
        pipe.send((pixels, said, time.process_time() - begin, status("VmHWM") - before))


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

    def __call__(self, name: str) -> tuple[bytes, str, float, float]:
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
        return b"", said, 60.0, 0.0

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def by_pillow(content: bytes, side: int, turn: int | None = None) -> np.ndarray:
    """Pixels as Pillow alone decodes an image: turned as it reads EXIF or by `turn`, over white, the upper 8 bits."""
    image = Image.open(io.BytesIO(content))
    image = ImageOps.exif_transpose(image) if turn is None else upright(image, turn)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))


def as_pillow(pixels: bytes, path: Path) -> bool:
    """Whether decoded pixels are Pillow's; up to rounding where white was laid under a picture after resizing it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = by_pillow(path.read_bytes(), SIDE)
        with Image.open(path) as image:
            rounding = 2 if transparent(image) else 0
    found = np.frombuffer(pixels, np.uint8).reshape(expected.shape)
    return np.abs(found.astype(int) - expected).max() <= rounding


def paths(place: Path) -> dict[str, Callable[[list[str]], Iterator[bytes]]]:
    """Ways to decode the images of a folder: each gives pixels, up to the error of the first damaged image."""
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
    return {way: lambda names, read=read: (x.tobytes() for x in read(names)) for way, read in ways.items()}


def pictures(out: Path, quick: bool) -> Outcome:
    """The corpus: limits of time and memory, and the same pixels, or the same error with the name, on every path."""
    from jaxml.data import ImageError

    place = fresh(out, "pictures")
    expected = corpus(place, quick)
    decoding = Decoding(place)
    found = {name: decoding(name) for name in expected}
    decoding.stop()
    wrong: dict[str, str] = {}
    for name, (pixels, said, seconds, megabytes) in found.items():
        if seconds > SECONDS or megabytes > MEGABYTES:
            wrong[name] = f"{seconds:.1f} s, {megabytes:.0f} MB"
        elif expected[name] not in (None, bool(pixels)) or "no ImageError" in said:
            wrong[name] = said or "decoded"
        elif said and (name not in said or len(said.splitlines()) > 1):
            wrong[name] = f"not one line with the name: {said}"
        elif pixels and not as_pillow(pixels, place / name):
            wrong[name] = "other pixels than Pillow's"
    sound = [name for name, (pixels, *_) in found.items() if pixels]
    refused = [name for name in found if name not in sound]
    for way, read in paths(place).items():
        others = [name for name, pixels in zip(sound, read(sound), strict=True) if pixels != found[name][0]]
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
