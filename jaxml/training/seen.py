"""Which classes that a run reports on have been learned already by the network that it begins with."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxml import config as configs
from jaxml.config import Config
from jaxml.data import splits
from jaxml.data.images import Images
from jaxml.files import parse_json, printable
from jaxml.models import saved_network
from jaxml.models.weights import packages
from jaxml.training.provenance import Pictures

SHOWN = 3
"""Classes that the warning names."""


@dataclass(frozen=True)
class Learned:
    """What a network was trained on."""

    classes: frozenset[str]
    """Names."""
    hashes: frozenset[str]
    """SHA-256 of each picture."""


def seen_classes(config: Config, images: Images, part: str, pictures: Pictures) -> dict[str, Any] | None:
    """Which classes of a part the weights of `model.weights` have learned, for `weights.json`; warns if there are any.

    A class counts if one of the learned ones has its name, or if one of its pictures was learned.

    Args:
        config: of the run that begins.
        images: its data set.
        part: of which its results are.
        pictures: its images by name, label and hash.

    Returns:
        The names of these classes, and how many pictures of the part are the very same as ones that were learned. None
        if the weights do not say what they have learned, as those of files and packages do not, or the run itself
        learns the part.

    Raises:
        ValueError: a file of the network is damaged.
    """
    folder = Path(config.model.weights)
    if config.model.weights == packages.AUTO or not folder.is_dir() or part == config.data.train_on:
        return None
    before = learned(folder, pictures)
    if before is None:
        return None
    index, rows = images.index, images.rows(part)
    copies = np.array([index.hashes[row] in before.hashes for row in rows])
    of_copies = {*index.labels[rows[copies]].tolist()}
    ids = [
        label
        for label in images.classes(part).tolist()
        if label in of_copies or index.class_names[label] in before.classes
    ]
    found = {"classes": [index.class_names[label] for label in ids], "pictures": int(copies.sum())}
    if ids:
        _warn(config, found, f"{len(images.classes(part))} {part} classes")
    return found


def learned(folder: Path, pictures: Pictures) -> Learned | None:
    """What the network in a folder was trained on; a saved network tells it of these very pictures alone, else None."""
    path = folder / saved_network.CONFIG
    content = parse_json(path.read_bytes(), printable(path))
    data, own = configs.from_dict({"data": content.get("data", {})}).data, folder / "data.jsonl"
    if own.is_file():
        lines = tuple(own.read_text(encoding="utf-8").splitlines())
    elif (content.get("about") or {}).get("data") == pictures.fingerprint["sha256"]:
        lines = pictures.lines
    else:
        return None
    try:
        names, *rows = map(json.loads, lines)
        try:
            parts = splits.split(data.split, len(names))
        except ValueError:  # a division that the data set states, which its list of pictures does not tell
            return None
        labels = {int(label) for part in data.train_on.split("+") for label in parts[part]}
        hashes = frozenset(digest for _, label, _, digest in rows if label in labels)
        return Learned(frozenset(names[label] for label in labels), hashes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--model.weights: {printable(own)} is damaged: {printable(error)}") from None


def _warn(config: Config, found: dict[str, Any], of: str) -> None:
    names, copies = found["classes"], found["pictures"]
    some = f"{len(names)} of the {of} ({', '.join(map(printable, names[:SHOWN]))}{', ...' * (len(names) > SHOWN)})"
    if copies:
        how = f"{some}, {copies} of whose pictures are the very same"
    else:
        how = f"classes with the names of {some}, from other pictures"
    warnings.warn(
        f"--model.weights {printable(config.model.weights)} has learned {how}: the scores are not those of unseen "
        f"classes; give other weights or another --data.split",
        stacklevel=2,
    )
