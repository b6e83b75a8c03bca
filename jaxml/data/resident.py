"""The resident input path: a data set decoded once to uint8 and kept on disk as one memory-mapped array.

Of several processes each decodes and keeps the images that it needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxml.config import Data
from jaxml.data.decode import Decoder, corners, decode_all, parallel, read
from jaxml.data.index import Index
from jaxml.files import expand, is_ours, move_into_place, parse_json, printable, unfinished_folder

FORMAT = 3
"""Version of the cache: raised when the same source gives other pixels, or its folder other files."""


def fingerprint(index: Index, config: Data) -> str:
    """SHA-256 of all that the decoded pixels depend on: encoded bytes, order, crops, size."""
    hashes = index.hashes or [
        hashlib.sha256(read(item, name)).hexdigest()
        for item, name in zip(index.items, index.names, strict=True)
    ]
    crops = corners(index.boxes) if config.crop_to_box and index.boxes is not None else None
    digest = hashlib.sha256(f"{FORMAT} {config.stored_size} {crops is not None}".encode())
    digest.update("".join(hashes).encode())
    if crops is not None:
        digest.update(crops.tobytes())
    return digest.hexdigest()


def check_fits(count: int, config: Data, devices: Sequence[Any], processes: int = 1) -> None:
    """Check that so many decoded images fit into free memory, divided among these devices and those of other processes.

    Raises:
        ValueError: it does not; the message names the device and says what to do.
    """
    size = -(-count // (len(devices) * processes)) * config.stored_size**2 * 3
    for device in devices:
        stats = device.memory_stats()
        if stats:
            free, place = stats["bytes_limit"] - stats["bytes_in_use"], str(device)
        else:  # CPU devices divide the host's
            free, place = host_memory() // len(devices), f"each of {len(devices)} CPU device(s)"
        if size > free:
            raise ValueError(
                f"{count} images to learn from, of {config.stored_size} x {config.stored_size} pixels, take "
                f"{size / 1e9:.2f} GB on each device, but {place} has {free / 1e9:.2f} GB free: stream them with "
                f"--data.input tf_data, or lower --data.stored_size"
            )


def host_memory() -> int:
    """Bytes of memory that are available to new programs, as Linux estimates them; on other systems all there are."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Pixels:
    """The decoded images of a data set by row; some are kept, and any other is decoded whenever it is asked for.

    Args:
        index: all images.
        config: how they are decoded, and where those that are kept go.
        rows: int [n], ascending, of the images to keep.

    Raises:
        ImageError: an image cannot be decoded; by `read` too.
        OSError: as `load`.
    """

    def __init__(self, index: Index, config: Data, rows: np.ndarray) -> None:
        self._kept = load(index if len(rows) == len(index.items) else index.take(rows), config)
        self._place = np.full(len(index.items), -1)
        self._place[rows] = np.arange(len(rows))
        self._decode = Decoder(index, size=config.stored_size, crop_to_box=config.crop_to_box)

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Vectors of row numbers int [b] to pixels uint8 [b, S, S, 3], in the same order."""
        for rows in batches:
            places = self._place[rows]
            pixels = self._kept[places]
            for i in np.flatnonzero(places < 0):
                pixels[i] = self._decode(rows[i])
            yield pixels


def load(index: Index, config: Data) -> np.memmap:
    """All images, read-only uint8 [N, stored_size, stored_size, 3], cropped to their boxes if so configured.

    The first call decodes them into a folder of `config.cache`, named after the fingerprint, with the SHA-256 of every
    image; later calls map the file and compare the hashes. A damaged cache with our marker is decoded again, with a
    warning. The folder appears whole or not at all, also where several processes decode at once.

    Raises:
        ImageError: an image cannot be decoded.
        OSError: the disk has too little space, or something else is in the folder's place.
    """
    key = fingerprint(index, config)
    folder = expand(config.cache, "--data.cache") / f"{config.source}-{config.stored_size}px-{key[:16]}"
    if folder.exists():
        pixels = _checked(folder, key)
        if pixels is not None:
            return pixels
        if not is_ours(folder):
            raise OSError(
                f"{printable(folder)} holds no decoded images, where these are to be kept: move it away, or give "
                f"another --data.cache"
            )
        warnings.warn(
            f"the decoded images in {printable(folder)} are damaged and are decoded again", stacklevel=2
        )
    _decode(index, config, folder, key)
    pixels = _checked(folder, key)
    if pixels is None:
        raise OSError(
            f"what was just written to {printable(folder)} reads back differently: check the disk, or set --data.cache"
        )
    return pixels


def _checked(folder: Path, key: str) -> np.memmap | None:
    """The array uint8 [N, S, S, 3] if every image has the hash noted when it was decoded, else None."""
    try:
        manifest = parse_json((folder / "manifest.json").read_bytes(), folder / "manifest.json")
        pixels = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        hashes = manifest["pixels"]
        if manifest["fingerprint"] != key or len(hashes) != len(pixels) or pixels.dtype != np.uint8:
            return None
    except (OSError, ValueError, KeyError, EOFError, TypeError):
        return None
    if (
        list(parallel(lambda i: hashlib.sha256(pixels[i]).hexdigest(), len(pixels), "checking cache"))
        != hashes
    ):
        return None
    return pixels


def _decode(index: Index, config: Data, folder: Path, key: str) -> None:
    """Write the array and its manifest into a new folder, and move that into place when it is complete."""
    n, side = len(index.items), config.stored_size
    folder.parent.mkdir(parents=True, exist_ok=True)
    need, free = n * side * side * 3, shutil.disk_usage(folder.parent).free
    if need > free:
        raise OSError(
            f"{printable(folder.parent)} has {free / 1e9:.2f} GB free, but {n} images of {side} x {side} pixels take "
            f"{need / 1e9:.2f} GB: free some, set --data.cache to another disk, or stream with --data.input tf_data"
        )
    with unfinished_folder(folder.parent, "decoded images") as part:
        hashes = []
        # np.lib.format.open_memmap would do the same in mapped memory, where a full disk kills the process.
        with open(part / "images.npy", "wb") as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": (n, side, side, 3)}
            np.lib.format.write_array_header_1_0(out, header)
            for image in decode_all(index, size=side, crop_to_box=config.crop_to_box):
                data = image.tobytes()
                hashes.append(hashlib.sha256(data).hexdigest())
                out.write(data)
        manifest = {
            "fingerprint": key,
            "source": config.source,
            "root": config.root,
            "stored_size": side,
            "crop_to_box": config.crop_to_box,
            "names": index.names,
            "pixels": hashes,
        }
        (part / "manifest.json").write_text(json.dumps(manifest))
        # A damaged one may be there, or one with the same pixels that another process has written meanwhile.
        move_into_place(part, folder)
