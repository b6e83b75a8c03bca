"""The manifest of a data set: SHA-256 of every image file when it was first read, by which later damage is noticed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxml import distributed
from jaxml.config import Data
from jaxml.data.decode import decode, parallel, read
from jaxml.data.index import ImageError, Index
from jaxml.files import expand, parse_json, printable, write_atomically

_REMEDY = "restore this manifest of a data set, or delete it to take the files as they are now"


def file(config: Data) -> Path:
    """Path of the manifest of a data set, named after source and folder, in `config.cache`."""
    root = config.root
    if root and "://" not in root:  # which would be an address, the same in every folder
        root = str(expand(root, "--data.root").resolve())
    key = hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
    return expand(config.cache, "--data.cache") / f"{config.source}-{key}.manifest.json"


def parse(data: bytes, path: str | Path) -> dict[str, str]:
    """Parse a manifest that was read from `path`: SHA-256 of each file by name.

    Raises:
        ValueError: it is not a manifest; the message says what to do.
    """
    try:
        content = parse_json(data, printable(path))
    except ValueError as error:
        raise ValueError(f"{error}; {_REMEDY}") from None
    hashes = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) for digest in hashes):
        raise ValueError(f"{printable(path)} is not a table of file names and their SHA-256; {_REMEDY}")
    return content


def check(index: Index, config: Data) -> Index:
    """Read every image, compare its SHA-256 with the data set's manifest, and return the index with `hashes`.

    Images that the manifest does not list yet, at first all, are also decoded, and then added to it. An image fails if
    it is missing, cannot be decoded, or has other bytes than before. With `config.on_error` "skip", failures are left
    out of the index returned, counted in a warning, and listed in a file beside the manifest. Of several processes each
    reads its share of the images, and all return the same.

    Raises:
        ImageError: images fail and `config.on_error` is "raise", or all of them fail, or processes find different ones.
        ValueError: the manifest is damaged.
    """
    path = file(config)
    known = parse(path.read_bytes(), path) if path.exists() else {}

    def one(i: int) -> tuple[str, str]:
        """SHA-256 of an image, and what is wrong with it; empty where there is none."""
        name, place = index.names[i], f"{index.places[i]}: " if index.places else ""
        try:
            data = read(index.items[i], name)
            digest = hashlib.sha256(data).hexdigest()
            if name not in known:
                decode(data, name, None, 1)
            elif digest != known[name]:
                return (
                    digest,
                    f"{place}image {printable(name)} has changed since this data set was first read.",
                )
        except ImageError as error:
            return "", f"{place}{error}"
        return digest, ""

    listed = hashlib.sha256("\0".join(index.names).encode(errors="surrogateescape")).hexdigest()
    if len({*distributed.everyones([listed])}) > 1:
        raise ImageError(
            f"{config.source} {printable(config.root)} has other images on one machine than on another; every machine "
            f"needs the same data set"
        )
    own = distributed.share(np.arange(len(index.items)))
    checked = list(parallel(lambda i: one(own[i]), len(own), "checking images"))
    results = distributed.everyones(checked)[: len(index.items)]
    here = set(index.names)
    failures = {index.names[i]: wrong for i, (_, wrong) in enumerate(results) if wrong}
    gone = [name for name in known if name not in here]
    failures |= {name: f"image {printable(name)} is no longer there." for name in gone}
    if failures:
        _report(failures, path, config)
    sound = np.array([i for i, (_, wrong) in enumerate(results) if not wrong], int)
    hashes = {index.names[i]: results[i][0] for i in sound}
    if new := {name: digest for name, digest in hashes.items() if name not in known}:
        write_atomically(path, json.dumps(known | new, indent=0))
    if not len(sound):
        raise ImageError(
            f"none of the {len(index.items)} images of {config.source} {printable(config.root)} can be used"
        )
    return replace(index.take(sound), hashes=tuple(hashes.values()))


def _report(failures: dict[str, str], path: Path, config: Data) -> None:
    """Raise an ImageError for failures by name, or list them beside the manifest `path` and warn."""
    first = " ".join(list(failures.values())[:3])
    more = f" And {len(failures) - 3} more." if len(failures) > 3 else ""
    if config.on_error == "raise":
        raise ImageError(
            f"{len(failures)} image(s) cannot be used: {first}{more} Restore them, or leave them out with "
            f"--data.on_error skip; if changes were intended, delete {printable(path)} to accept them."
        )
    listing = path.with_suffix(".skipped.txt")
    write_atomically(listing, "".join(f"{printable(name)}\t{wrong}\n" for name, wrong in failures.items()))
    warnings.warn(
        f"{len(failures)} image(s) left out, listed in {printable(listing)}: {first}{more}", stacklevel=3
    )
