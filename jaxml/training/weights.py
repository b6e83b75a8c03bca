"""The weights that a run begins with: those of a file, of a package, of the hub, or of a network trained before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxml.config import Config
from jaxml.errors import CheckpointError, RunError
from jaxml.files import printable
from jaxml.models import saved_network
from jaxml.models.weights import packages, pretrained
from jaxml.models.weights.readers import WeightFormatError
from jaxml.training import saved
from jaxml.training.learner import TrainState, without_loss


def load_weights(config: Config, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state with the weights of `model.weights` and without averages, and a report on them for `weights.json`.

    Raises:
        ImportError: a package that it needs is not installed.
        WeightFormatError: it is neither a weight file for the backbone nor a network with this backbone.
        RunError: it is a folder with neither a run that has saved something nor a saved network.
    """
    network, loss = without_loss(state.params)
    variables = {"params": network, "batch_stats": state.batch_stats}
    model = config.model
    if model.weights != packages.AUTO and Path(model.weights).is_dir():
        variables, report = _of_network(Path(model.weights), variables, model.backbone)
    else:
        variables, report = pretrained.load(
            model.weights,
            variables,
            model.backbone,
            classifier=model.head == "classifier",
            cache=config.data.cache,
        )
    params, stats = {**variables["params"], **loss}, variables.get("batch_stats", {})
    return state._replace(params=params, batch_stats=stats, averages=None), report


def taken(report: Mapping[str, Any], state: TrainState) -> str:
    """What of the network is from the weights that a report is on, and what begins from random numbers, in a line."""
    fresh = {name.partition("/")[0] for name in report["fresh"]}
    parts = [
        f"{part} {'fresh' if part in fresh else 'taken'}" for part in sorted(without_loss(state.params)[0])
    ]
    step = "" if report.get("step") is None else f", step {report['step']}"
    return f"weights: {printable(report['source'])}{step}: {', '.join(parts)}"


def has_head(report: Mapping[str, Any]) -> bool:
    """Whether the weights that a report is on have the network's head."""
    return not any(name.startswith("head/") for name in report["fresh"])


def _of_network(
    folder: Path, variables: Mapping[str, Any], backbone: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables with those of a trained network: its backbone's, and of other parts those of the same shapes."""
    found, step, network = _read(folder)
    named = f"--model.weights {printable(folder)}"
    if network.model.backbone != backbone:
        raise WeightFormatError(
            f"{named} is a network with --model.backbone {network.model.backbone}, this one has {backbone}; give the "
            f"same backbone, or other weights"
        )
    given, wanted = flatten_dict(found, sep="/"), flatten_dict(dict(variables), sep="/")
    shapes = [_shapes_by_part(part) for part in (given, wanted)]
    fresh_parts = {part for part in shapes[1] if shapes[0].get(part) != shapes[1][part]}
    if "backbone" in fresh_parts:
        raise WeightFormatError(
            f"{named} has a {backbone} of other shapes, for --data.size {network.data.size}; give the same size, or "
            f"other weights"
        )
    used = {path: given[path] for path in wanted if _part(path) not in fresh_parts}
    report = {
        "source": str(folder),
        "step": step,
        "sha256": _sha256(given),
        "metadata": {},
        "loaded": sum(value.size for value in used.values()),
        "fresh": sorted(path.removeprefix("params/") for path in wanted.keys() - used.keys()),
    }
    return unflatten_dict(wanted | used, sep="/"), report


def _read(folder: Path) -> tuple[dict[str, Any], int | None, Config]:
    """Variables {"params", "batch_stats"} by which a trained network embeds, its step, and its configuration."""
    if saved_network.is_saved(folder):
        try:
            config, variables, about = saved_network.read(folder)
        except ValueError as error:
            raise WeightFormatError(f"--model.weights: {error}") from None
        step = about.get("step")
        return variables, step if isinstance(step, int) else None, config
    try:
        config = saved.configuration(folder)
        state, _ = saved.restore(folder, config, saved.untrained(config)[1])
    except (RunError, CheckpointError) as error:
        raise RunError(
            f"--model.weights: {error}; give a run that has saved a checkpoint, a folder that model.save wrote, or a "
            f"weight file"
        ) from None
    params, batch_stats = state.network
    return {"params": params, "batch_stats": batch_stats}, int(state.step), config


def _part(path: str) -> str:
    """The part of the network, such as backbone, that a variable `params/backbone/...` is of."""
    return path.split("/")[1]


def _shapes_by_part(variables: Mapping[str, Any]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes by path, for each part of a network."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, value in variables.items():
        shapes.setdefault(_part(path), {})[path] = tuple(value.shape)
    return shapes


def _sha256(variables: Mapping[str, Any]) -> str:
    """Of all arrays with their names, types and shapes: the same for a run's checkpoint and the network saved of it."""
    digest = hashlib.sha256()
    for path in sorted(variables):
        value = np.asarray(variables[path])
        digest.update(f"{path} {value.dtype} {value.shape}\n".encode() + value.tobytes())
    return digest.hexdigest()
