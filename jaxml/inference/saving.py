"""Saved networks: a folder of safetensors and JSON, written whole, read as what strangers may have made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from jaxml import __version__, models
from jaxml import config as configs
from jaxml.config import Config, Data
from jaxml.files import (
    MARKER,
    UNFINISHED,
    expand,
    is_ours,
    move_into_place,
    parse_json,
    printable,
    unfinished_folder,
    write_json,
)
from jaxml.models.weights import readers
from jaxml.training.checkpoint import flatten

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


def write(folder: Path, config: Config, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write a network into a new folder: the shareable part of its configuration, its arrays by path, and the rest."""
    data = save(dict(arrays), metadata={"format": "jaxml"})
    (folder / ARRAYS).write_bytes(data)
    sections = configs.to_dict(shareable(config))
    content = {
        "format": FORMAT,
        "made_by": f"jaxml {__version__}",
        "sha256": hashlib.sha256(data).hexdigest(),
        "about": about,
        **{name: sections[name] for name in SECTIONS},
    }
    write_json(folder / CONFIG, content)


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
        module = models.build(config.model)
    except ValueError as error:
        raise ValueError(f"{printable(path)}: {error}") from None
    file = readers.read(folder / ARRAYS)
    if file.sha256 != content.get("sha256"):
        raise ValueError(
            f"{printable(folder / ARRAYS)} is not the file that {CONFIG} was written with: its SHA-256 is "
            f"{file.sha256}. Save or download the folder again."
        )
    shapes = models.shapes(module, config.data.size)
    wanted = flatten(shapes)
    found = {name: (x.shape, x.dtype) for name, x in file.tensors.items()}
    if found != {name: (x.shape, x.dtype) for name, x in wanted.items()}:
        wrong = sorted(found.keys() ^ wanted.keys()) or sorted(found)
        raise ValueError(
            f"{printable(folder / ARRAYS)} does not hold the network of {CONFIG}; look at {', '.join(wrong[:3])}"
        )
    leaves = [file.tensors[name] for name in wanted]
    about = content.get("about")
    return (
        config,
        jax.tree.unflatten(jax.tree.structure(shapes), leaves),
        about if isinstance(about, dict) else {},
    )


@contextmanager
def whole_folder(path: str | Path, kind: str) -> Iterator[Path]:
    """Make a new folder to fill, which takes its place at `path` at the end, or that of an earlier one of its `kind`.

    Raises:
        ValueError: something else is at `path`; nothing has been written then.
    """
    folder = expand(path, "the folder").absolute()
    _check_free(folder, kind)
    with unfinished_folder(folder.parent, kind) as part:
        yield part
        move_into_place(part, folder)


def _check_free(folder: Path, kind: str) -> None:
    shown = printable(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{shown} is a file; give a folder for the {kind}")
    if is_ours(folder):
        marker = json.loads((folder / MARKER).read_bytes())
        if marker.get("kind") != kind:
            raise ValueError(f"{shown} holds other results of jaxml, not a {kind}; give another folder")
    elif others := [path.name for path in folder.iterdir() if not UNFINISHED.fullmatch(path.name)]:
        raise ValueError(
            f"{shown} holds something else, such as {printable(others[0])}; give a new folder or an empty one"
        )
