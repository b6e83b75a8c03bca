"""The commands on weight files: which packages have some, what a file holds and fits, and its conversion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save
from tyro.conf import Positional
from tyro.extras import subcommand_cli_from_dict

from jaxml import config
from jaxml.files import replacing
from jaxml.models.backbones import BACKBONES
from jaxml.models.weights import packages, pretrained, readers
from jaxml.models.weights.packages import PACKAGES
from jaxml.models.weights.pickles import read_pickle
from jaxml.models.weights.readers import PICKLES, WeightFile


def list_packages(cache: str = config.Data.cache) -> None:
    """Print the backbones whose weights come as packages, which of these are installed, and their converted copies.

    Args:
        cache: The folder of converted copies, as --data.cache of a run.
    """
    print(f"{'backbone':20}{'package':34}{'licence':12}{'installed':11}converted")
    for backbone, package in PACKAGES.items():
        path = packages.converted(backbone, cache)
        installed = packages.version(package) or "no"
        copy = path if path.is_file() else "no"
        print(f"{backbone:20}{package.name:34}{package.licence:12}{installed:11}{copy}")


def path(backbone: Positional[str], cache: str = config.Data.cache) -> None:
    """Print the path of a backbone's weights as .safetensors, which are converted from their package if need be.

    Args:
        backbone: One of those that `list` shows.
        cache: The folder of converted copies, as --data.cache of a run.
    """
    packages.read(backbone, cache)
    print(packages.converted(backbone, cache))


def inspect(file: Positional[Path]) -> None:
    """Print what a weight file holds and which backbones it fits.

    Args:
        file: A .safetensors, .npz or .pth file.
    """
    contents = _read(file)
    for name, array in contents.tensors.items():
        print(f"{name:56} {array.dtype!s:9} {list(array.shape)}")
    for key, value in contents.metadata.items():
        print(f"{key}: {value}")
    arrays = contents.tensors.values()
    print(f"sha256: {contents.sha256}")
    print(f"arrays: {len(arrays)}, numbers: {sum(array.size for array in arrays):,}")
    for name, row in BACKBONES.items():
        if row.classifier is None:
            continue
        renamed = {row.rename(key): array for key, array in contents.tensors.items()}
        head = renamed.get(f"{row.classifier}.bias")
        classes = "no classifier" if head is None else f"a classifier of {head.size} classes"
        problems = pretrained.misfits(contents.tensors, name)
        print(
            f"{name}: " + (f"does not fit ({len(problems)} arrays)" if problems else f"fits, with {classes}")
        )


def convert(file: Positional[Path], output: Path | None = None) -> None:
    """Write a .pth or .npz file's arrays as .safetensors, names unchanged; an existing file is left alone.

    Args:
        file: The file to convert.
        output: The file to write; by default beside the first, with suffix .safetensors.
    """
    output = output or file.with_suffix(".safetensors")
    if output.exists():
        raise ValueError(f"{output}: exists already; name another with --output")
    contents = _read(file)
    metadata = {"converted_from": file.name, "converted_from_sha256": contents.sha256}
    tensors = {name: np.asarray(array, order="C") for name, array in contents.tensors.items()}
    with replacing(output, "wb") as target:
        target.write(save(tensors, metadata | contents.metadata))
    print(f"{output}: {len(tensors)} arrays")


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_packages,
    "path": path,
    "inspect": inspect,
    "convert": convert,
}


def main(words: list[str], prog: str = "python -m jaxml.models.weights") -> None:
    """Run one of the commands; `prog` is what was typed before `words`.

    Raises:
        OSError, ValueError, ImportError: with one line for the user.
    """
    subcommand_cli_from_dict(COMMANDS, args=words, prog=prog, description=__doc__, use_underscores=True)


def _read(file: Path) -> WeightFile:
    return read_pickle(file) if file.suffix in PICKLES else readers.read(file)
