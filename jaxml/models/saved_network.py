"""Saved networks: safetensors and JSON in a folder, read as what strangers may have made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save

from jaxml import config as configs
from jaxml.config import Config, Data
from jaxml.files import parse_json, printable, write_json
from jaxml.models.embedder import build, shapes
from jaxml.models.weights import readers

ARRAYS, CONFIG = "model.safetensors", "config.json"
FORMAT = 1
"""Version of the folder's files."""
SECTIONS = ("data", "model", "eval")
"""Sections of the configuration that embedding depends on."""


def shareable(config: Config) -> Config:
    """A configuration without what belongs to its training alone or to the machine: paths, loss, optimiser."""
    here = Data()
    return Config(
        data=replace(config.data, root=here.root, cache=here.cache),
        model=replace(config.model, weights=""),
        eval=config.eval,
    )


def write(
    folder: Path, config: Config, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any], made_by: str
) -> None:
    """Write a network into a new folder: the shareable part of its configuration, its arrays by path, and the rest."""
    data = save(dict(arrays), metadata={"format": "jaxml"})
    (folder / ARRAYS).write_bytes(data)
    sections = configs.to_dict(shareable(config))
    content = {
        "format": FORMAT,
        "made_by": made_by,
        "sha256": hashlib.sha256(data).hexdigest(),
        "about": about,
        **{name: sections[name] for name in SECTIONS},
    }
    write_json(folder / CONFIG, content)


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that `write` made, by its CONFIG; that of a run has only sections.

    Raises:
        ValueError: CONFIG is no JSON file.
    """
    path = folder / CONFIG
    content = parse_json(path.read_bytes(), printable(path)) if path.is_file() else None
    return isinstance(content, dict) and "format" in content


def read(folder: Path) -> tuple[Config, dict[str, Any], dict[str, Any]]:
    """Configuration, variables {"params", "batch_stats"}, and what `write` was told of the training.

    Nothing in the folder is executed, and its arrays must be the network's that it names.

    Raises:
        ValueError: a file is missing, damaged, not of this format or not of the other file; the message names it.
    """
    path = folder / CONFIG
    content = parse_json(path.read_bytes(), printable(path))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise ValueError(
            f"{printable(path)} is no saved network of format {FORMAT} (its format is {found!r}); save it again, or "
            f"install the version of jaxml that saved it"
        )
    try:
        config = configs.from_dict({name: content.get(name, {}) for name in SECTIONS})
        module = build(config.model)
    except ValueError as error:
        raise ValueError(f"{printable(path)}: {error}") from None
    if not (folder / ARRAYS).is_file():
        raise ValueError(
            f"{printable(folder)} is a saved network without its {ARRAYS}; save, copy or download the folder again"
        )
    file = readers.read(folder / ARRAYS)
    if file.sha256 != content.get("sha256"):
        raise ValueError(
            f"{printable(folder / ARRAYS)} is not the file that {CONFIG} was written with: its SHA-256 is "
            f"{file.sha256}. Save or download the folder again."
        )
    wanted = flatten_dict(shapes(module, config.data.size), sep=".")
    found = {name: (x.shape, x.dtype) for name, x in file.tensors.items()}
    if found != {name: (x.shape, x.dtype) for name, x in wanted.items()}:
        wrong = sorted(found.keys() ^ wanted.keys()) or sorted(found)
        raise ValueError(
            f"{printable(folder / ARRAYS)} does not hold the network of {CONFIG}; look at {', '.join(wrong[:3])}"
        )
    about = content.get("about")
    return config, unflatten_dict(file.tensors, sep="."), about if isinstance(about, dict) else {}
