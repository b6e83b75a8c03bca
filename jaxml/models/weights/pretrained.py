"""Imports pretrained weights, with names that the backbone understands, into the variables of a network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxml import config
from jaxml.models.backbones import BACKBONES
from jaxml.models.embedder import build, shapes
from jaxml.models.weights import hub, packages, readers
from jaxml.models.weights.readers import WeightFile, WeightFormatError

_STATISTICS = {"running_mean": "mean", "running_var": "var"}


def load(
    path: str | Path,
    variables: Mapping[str, Any],
    backbone_name: str,
    *,
    classifier: bool = False,
    cache: str | Path = config.Data.cache,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take the backbone's variables from a weight file.

    Args:
        path: a .safetensors or .npz file, hf://owner/repo/file@commit, or auto: the backbone's package, see
            `jaxml.models.weights.packages`.
        variables: {"params", "batch_stats"} of a network.
        backbone_name: a name from BACKBONES.
        classifier: take the head from the file as well; otherwise it stays as it is.
        cache: folder for the converted weights of packages.

    Returns:
        The variables, and a report that can be written as JSON: source, sha256, metadata, loaded (the number of
        parameters and statistics from the file) and fresh (names of the parameters that are not from it).

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a package that `path` needs is not installed.
        WeightFormatError: the file is damaged, or arrays are missing, unknown, of another shape or not finite; the
            message lists all of them.
        ValueError: there are no pretrained weights for this backbone.
    """
    source, file = _read(str(path), backbone_name, cache)
    wanted = flatten_dict(dict(variables), sep="/")
    taken, fresh, problems = _match(file.tensors, wanted, backbone_name, classifier)
    if problems:
        listing = "\n  ".join(problems)
        raise WeightFormatError(
            f"{source} does not fit {backbone_name} "
            f"(`jaxml weights inspect` tells what it fits):\n  {listing}"
        )
    report = {
        "source": source,
        "sha256": file.sha256,
        "metadata": file.metadata,
        "loaded": sum(math.prod(value.shape) for value in taken.values()),
        "fresh": [name.removeprefix("params/") for name in fresh],
    }
    return unflatten_dict(wanted | taken, sep="/"), report


def misfits(tensors: Mapping[str, np.ndarray], backbone_name: str) -> list[str]:
    """What of the arrays of a weight file does not fit a backbone, one line for each; the classifier is left out."""
    return _match(tensors, _shapes(backbone_name), backbone_name, False)[2]


def _read(source: str, backbone_name: str, cache: str | Path) -> tuple[str, WeightFile]:
    """A weight file, and where it is from."""
    if source == packages.AUTO:
        file = packages.read(backbone_name, cache)
        said = file.metadata
        return f"{source}: {said['package']} {said['version']}, {said['licence']}", file
    return source, readers.read(hub.fetch(source) if source.startswith(hub.PREFIX) else source)


def _match(
    tensors: Mapping[str, np.ndarray], wanted: Mapping[str, Any], backbone_name: str, classifier: bool
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Arrays of a file by their path among the variables `wanted`, paths that stay fresh, and what does not fit."""
    row = BACKBONES[backbone_name]
    prefix = row.classifier
    if prefix is None:
        raise ValueError(
            f"--model.weights: there are no pretrained weights for {backbone_name}; leave it out, or give the "
            f"directory of a run with this backbone"
        )
    own = ("params/pooling/",) if classifier else ("params/pooling/", "params/head/")
    fresh = sorted(path for path in wanted if path.startswith(own))
    taken: dict[str, np.ndarray] = {}
    problems = []
    for name, array in tensors.items():
        own_name = row.rename(name)
        layer = own_name.rpartition(".")[0]
        if name.endswith(".num_batches_tracked") or name.startswith("AuxLogits."):
            continue
        if layer == prefix and not classifier:
            continue
        path, value = _place(own_name, array, prefix)
        if path not in wanted or path in taken:
            problems.append(f"extra: {name} {list(array.shape)}")
            continue
        taken[path] = value
        if value.shape != wanted[path].shape:
            problems.append(
                f"misshapen: {name} gives {list(value.shape)}, {path} is {list(wanted[path].shape)}"
            )
        elif not np.all(np.isfinite(value)):
            problems.append(f"not finite: {name}")
    missing = wanted.keys() - taken.keys() - set(fresh)
    return (
        taken,
        fresh,
        problems + [f"missing: {path} {list(wanted[path].shape)}" for path in sorted(missing)],
    )


def _shapes(backbone_name: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes by path of the variables that weights of a backbone fill."""
    row = BACKBONES[backbone_name]
    module = build(config.Model(backbone=backbone_name, head="none", feature_size=row.features))
    return flatten_dict(shapes(module, row.size), sep="/")


def _place(name: str, array: np.ndarray, classifier: str) -> tuple[str, np.ndarray]:
    """Path among the variables, and value in their layout, of an array with timm's or torchvision's name and layout."""
    layer, _, kind = name.rpartition(".")
    value = array.astype(np.float32)
    collection, leaf = "params", kind
    if kind in _STATISTICS:
        collection, leaf = "batch_stats", _STATISTICS[kind]
    elif kind == "weight" and array.ndim == 4:
        leaf, value = "kernel", value.transpose(2, 3, 1, 0)
    elif kind == "weight" and array.ndim == 2:
        leaf, value = "kernel", value.T
    elif kind == "weight":
        leaf = "scale"
    if layer == classifier:
        return f"params/head/{leaf}", value
    # layer1.0.downsample.0 -> layer1_0/downsample_0
    path = re.sub(r"\.(?=\d+(\.|$))", "_", layer).replace(".", "/")
    return f"{collection}/backbone/{path}/{leaf}", value
