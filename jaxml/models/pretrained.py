"""Pretrained weights, named as torchvision or timm name them, brought into a network's variables."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxml.models import hub, weight_files
from jaxml.models.backbones import BACKBONES
from jaxml.models.weight_files import WeightFormatError

_STATISTICS = {"running_mean": "mean", "running_var": "var"}


def load(
    path: str | Path, variables: Mapping[str, Any], backbone_name: str, *, classifier: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables {"params", "batch_stats"} with the backbone taken from a weight file, and a report for the log.

    `path` is a .safetensors or .npz file, or hf://owner/repo/file@commit. The head stays as it is, unless
    `classifier` asks for the file's. Missing, extra, misshapen and non-finite arrays are listed together in one
    WeightFormatError. The report holds source, sha256, metadata, loaded (number of parameters and statistics)
    and fresh (names of the parameters that are not from the file), and can be written as JSON.
    """
    row = BACKBONES[backbone_name]
    if row.classifier is None:
        raise ValueError(f"model.weights: there are no pretrained weights for {backbone_name}")
    source = str(path)
    file = weight_files.read(hub.fetch(source) if source.startswith(hub.PREFIX) else path)

    wanted = flatten_dict(dict(variables), sep="/")
    fresh = sorted(name for name in wanted if name.startswith("params/head/"))
    if classifier:
        fresh = []
    found, problems = {}, []
    for name, array in file.tensors.items():
        if name.endswith(".num_batches_tracked") or name.startswith("AuxLogits."):
            continue
        if name.rpartition(".")[0] == row.classifier and not classifier:
            continue
        place, value = _place(name, array, row.classifier)
        if place not in wanted or place in found:
            problems.append(f"extra: {name} {list(array.shape)}")
            continue
        found[place] = value
        if value.shape != wanted[place].shape:
            problems.append(
                f"misshapen: {name} gives {list(value.shape)}, {place} is {list(wanted[place].shape)}"
            )
        elif not np.all(np.isfinite(value)):
            problems.append(f"not finite: {name}")
    problems += [
        f"missing: {place} {list(wanted[place].shape)}"
        for place in wanted
        if place not in found and place not in fresh
    ]
    if problems:
        listing = "\n  ".join(problems)
        raise WeightFormatError(
            f"{source} does not fit {backbone_name}; `inspect` shows what a file holds:\n  {listing}"
        )
    report = {
        "source": source,
        "sha256": file.sha256,
        "metadata": file.metadata,
        "loaded": sum(math.prod(value.shape) for value in found.values()),
        "fresh": [name.removeprefix("params/") for name in fresh],
    }
    return unflatten_dict(wanted | found, sep="/"), report


def _place(name: str, array: np.ndarray, classifier: str) -> tuple[str, np.ndarray]:
    """Path among the variables, and value, for an array of torchvision's name and layout."""
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
