"""Records what results depend on before the first is measured, so that no study or table mixes two kinds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxml import config as configs
from jaxml.config import Config
from jaxml.errors import RunError
from jaxml.files import parse_json, write_atomically
from jaxml.training.lock import locked

NAME = "depends_on.json"
PLACES = ("data.root:", "data.input:", "data.cache:", "model.weights:", "train.devices:", "train.profile:")
"""Options, by how `config.differences` writes them, that change no number: places, and how the work is done."""


@contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Hold the lock of a study's or table's folder, which is made if need be.

    Raises:
        ValueError: the path cannot be a folder.
        RunError: another process holds the lock.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"--workdir {workdir} cannot be a folder: there is a file of that name") from None
    with locked(workdir):
        yield


def contents(config: Config) -> dict[str, str]:
    """SHA-256 of the whole data set (names, labels, boxes and bytes of its pictures), and of the pretrained weights.

    Raises:
        ValueError: the data set or the weights are missing, or do not fit the configuration.
    """
    from jaxml import data
    from jaxml.training import learner, provenance, weights

    pictures = provenance.Pictures.of(data.load(config.data))
    found = {"data_sha256": pictures.fingerprint["sha256"], "weights_sha256": ""}
    if config.model.weights:
        _, report = weights.load_weights(config, learner.create(config, 1)[1])
        found["weights_sha256"] = report["sha256"]
    return found


def claim(folder: Path, wanted: dict[str, Any], *, used: bool) -> None:
    """Write what the numbers of a folder depend on; of a folder that is `used`, check that it is the same.

    `wanted` holds the `config`, as `config.to_dict` gives it, and whatever else there is.

    Raises:
        RunError: the folder was begun otherwise, lists how; or it does not say how.
    """
    path = folder / NAME
    if not used:
        write(path, wanted)
        return
    if not path.exists():
        raise RunError(
            f"{folder} has no {NAME}, which says what its numbers depend on (earlier versions wrote none); choose "
            f"another --workdir"
        )
    found = read(path, "put a copy of it back, or choose another --workdir")
    if changed := differences(found, wanted):
        raise RunError(
            f"{folder} was begun with other options or data; it differs in {'; '.join(changed)}; choose another "
            f"--workdir"
        )


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line for each option, and each other entry, in which two differ; `PLACES` may."""
    old, new = _plain(old), _plain(new)
    options = configs.differences(*(configs.from_dict(found.pop("config")) for found in (old, new)))
    lines = [line for line in options if not line.startswith(PLACES)]
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [*(f"{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in names), *lines]


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file with its own SHA-256 in it."""
    content = _plain(content)
    write_atomically(path, json.dumps({**content, "sha256": _sha256(content)}, indent=1) + "\n")


def read(path: Path, remedy: str) -> dict[str, Any]:
    """What `write` wrote; ValueError, with the file's name and a remedy, if it is anything else."""
    try:
        found = parse_json(path.read_bytes(), path)
        intact = isinstance(found, dict) and found.pop("sha256", "") == _sha256(found)
    except ValueError:
        intact = False
    if not intact:
        raise ValueError(f"{path} is damaged; {remedy}")
    return found


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """The same content with the types that JSON keeps."""
    return json.loads(json.dumps(content))


def _sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
