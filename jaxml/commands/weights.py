"""Find, look into and convert files of pretrained weights.

    jaxml weights list
    jaxml weights path efficientnet_lite0
    jaxml weights inspect squeezenet1_1.pth
    jaxml weights convert squeezenet1_1.pth

`--model.weights auto` of a training takes by itself the weights that `list` shows as installed.

Exit codes: 0 done, 1 an error that the last line names, 2 wrong options.
"""

from pathlib import Path
from typing import Annotated, Any, Union

import numpy as np
import tyro
from safetensors.numpy import save
from tyro.conf import Positional

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


FUNCTIONS = {"list": list_packages, "path": path, "inspect": inspect, "convert": convert}
"""By the word after `jaxml weights`, the function that is called with the options."""

Arguments: Any = Union[  # noqa: UP007  # of as many as there are
    tuple(Annotated[function, tyro.conf.subcommand(name)] for name, function in FUNCTIONS.items())
]
"""The options of one of the functions."""


def main(words: list[str]) -> None:
    """Call one of the functions with its options."""
    tyro.cli(Arguments, args=words, description=__doc__, use_underscores=True)


def _read(file: Path) -> WeightFile:
    return read_pickle(file) if file.suffix in PICKLES else readers.read(file)
