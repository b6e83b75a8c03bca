"""Which classes that a run reports on have been learned already by networks that it begins with or learns from."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxml import config as configs
from jaxml.config import Config
from jaxml.data import splits
from jaxml.data.images import Images
from jaxml.files import parse_json, printable
from jaxml.models import saved_network
from jaxml.models.weights import packages
from jaxml.training.provenance import Pictures

SEEN = "seen.json"
"""The file of a run's directory that says so."""
SHOWN = 3
"""Classes that the warning names."""


class Learned(NamedTuple):
    """What a network was trained on."""

    classes: frozenset[str]
    """Names."""
    hashes: frozenset[str]
    """SHA-256 of each picture."""


def seen_classes(config: Config, images: Images, part: str, pictures: Pictures) -> dict[str, Any] | None:
    """Which classes of a part the networks of `model.weights` and `distill.teacher` have learned; warns if any.

    A class counts if one of the learned ones has its name, or if one of its pictures was learned.

    Args:
        config: of the run that begins.
        images: its data set.
        part: of which its results are.
        pictures: its images by name, label and hash.

    Returns:
        The names of these classes, and how many pictures of the part are the very same as ones that were learned. None
        if the networks do not say what they have learned, as those of files and packages do not, or the run itself
        learns the part.

    Raises:
        ValueError: a file of a network is damaged.
    """
    if part == config.data.train_on:
        return None
    options = {"--model.weights": config.model.weights, "--distill.teacher": config.distill.teacher}
    found = {f"{name} {printable(path)}": learned(Path(path), pictures) for name, path in _folders(options)}
    known = {name: before for name, before in found.items() if before is not None}
    if not known:
        return None
    classes, hashes = (frozenset().union(*parts) for parts in zip(*known.values(), strict=True))
    index, rows = images.index, images.rows(part)
    copies = np.array([index.hashes[row] in hashes for row in rows])
    of_copies = {*index.labels[rows[copies]].tolist()}
    ids = [
        label
        for label in images.classes(part).tolist()
        if label in of_copies or index.class_names[label] in classes
    ]
    seen = {"classes": [index.class_names[label] for label in ids], "pictures": int(copies.sum())}
    if ids:
        _warn([*known], seen, f"{len(images.classes(part))} {part} classes")
    return seen


def learned(folder: Path, pictures: Pictures, after: frozenset[Path] = frozenset()) -> Learned | None:
    """What the network in a folder was trained on, and those before it that it began with or learned from.

    Networks that are no longer where they were are left out. A saved network tells what it was trained on of these very
    pictures alone, else None. `after` are folders that are looked at already.
    """
    path = folder / saved_network.CONFIG
    content = parse_json(path.read_bytes(), printable(path))
    after |= {folder.resolve()}
    options = {
        (a, b): (content.get(a) or {}).get(b) for a, b in (("model", "weights"), ("distill", "teacher"))
    }
    before = [Path(path) for _, path in _folders(options)]
    found = [_learned_here(folder, content, pictures)]
    found += [learned(place, pictures, after) for place in before if place.resolve() not in after]
    known = [network for network in found if network is not None]
    return Learned(*(frozenset().union(*parts) for parts in zip(*known, strict=True))) if known else None


def _folders(options: Mapping[Any, Any]) -> list[tuple[Any, str]]:
    """Those of the options that name the folder of a network."""
    named = [(name, path) for name, path in options.items() if path and path != packages.AUTO]
    return [(name, path) for name, path in named if (Path(path) / saved_network.CONFIG).is_file()]


def _learned_here(folder: Path, content: Mapping[str, Any], pictures: Pictures) -> Learned | None:
    """`learned` of the folder itself, whose configuration is given."""
    data, own = configs.from_dict({"data": content.get("data", {})}).data, folder / "data.jsonl"
    if own.is_file():
        lines = tuple(own.read_text(encoding="utf-8").splitlines())
    elif (content.get("about") or {}).get("data") == pictures.fingerprint["sha256"]:
        lines = pictures.lines
    else:
        return None
    try:
        names, *rows = map(json.loads, lines)
        if data.split == splits.SOURCE:
            labels = {int(row[1]) for row in rows if row[4] in data.train_on.split("+")}
        else:
            parts = splits.split(data.split, len(names))
            labels = {int(label) for part in data.train_on.split("+") for label in parts[part]}
        hashes = frozenset(row[3] for row in rows if row[1] in labels)
        return Learned(frozenset(names[label] for label in labels), hashes)
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{printable(own)} is damaged: {printable(error)}") from None


def record(workdir: Path) -> dict[str, Any]:
    """What `seen.json` of a run holds; nothing where it has no such file."""
    path = workdir / SEEN
    found: dict[str, Any] = parse_json(path.read_bytes(), printable(path)) if path.is_file() else {}
    return found


def _warn(networks: list[str], found: dict[str, Any], of: str) -> None:
    names, copies = found["classes"], found["pictures"]
    some = f"{len(names)} of the {of} ({', '.join(map(printable, names[:SHOWN]))}{', ...' * (len(names) > SHOWN)})"
    if copies:
        how = f"{some}, {copies} of whose pictures are the very same"
    else:
        how = f"classes with the names of {some}, from other pictures"
    warnings.warn(
        f"{' and '.join(networks)}: the network, or one before it, has learned {how}: the scores are not those of "
        f"unseen classes; give another network or another --data.split",
        stacklevel=2,
    )
