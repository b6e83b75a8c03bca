"""Opens a trained network: from the directory of a run, a folder that `Model.save` wrote, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from jaxml.config import Config
from jaxml.errors import RunError
from jaxml.files import expand, parse_json, printable
from jaxml.inference import hub
from jaxml.inference.model import Model
from jaxml.models import saved_network
from jaxml.models.weights.hub import PREFIX
from jaxml.training import seen
from jaxml.training.saved import load_variables


def load(path: str | Path) -> Model:
    """The trained network in `path`.

    Args:
        path: the directory of a run, whose best checkpoint is taken (the last, where nothing was validated; its data
            set may be gone); a folder that `Model.save` wrote; or `hf://owner/repo`, with `@revision` for a branch,
            tag or commit.

    Raises:
        RunError: there is neither a run nor a saved network, or the run has saved nothing yet.
        ValueError: a file is damaged, or the address has another form.
        ImportError: huggingface_hub is not installed (extra `hub`).

    Example:
        >>> import jaxml
        >>> model = jaxml.load("runs/mine")  # doctest: +SKIP
    """
    in_hub = str(path).startswith(PREFIX)
    folder = hub.download(str(path)) if in_hub else expand(path, "the path")
    if not (folder / "config.json").is_file():
        raise RunError(
            f"{printable(path)} holds no run and no saved network: there is no config.json. Give the "
            f"--workdir of a run, or a folder that model.save wrote"
        )
    if saved_network.is_saved(folder):
        return Model(*saved_network.read(folder))
    network, state = load_variables(folder)
    params, batch_stats = state.network
    variables = {"params": params}
    if batch_stats:
        variables["batch_stats"] = batch_stats
    return Model(
        saved_network.shareable(network.config), variables, _about(folder, int(state.step), network.config)
    )


def _about(workdir: Path, step: int, config: Config) -> dict[str, Any]:
    """What the directory of a run says of its training, without a path of this machine."""
    pictures = workdir / "data.jsonl"
    lines = pictures.read_text(encoding="utf-8").splitlines() if pictures.is_file() else []
    weights = _content(workdir / "weights.json")
    teacher = _content(workdir / "teacher.json")
    results = _content(workdir / "results.json")
    by_labels = not config.distill.teacher or config.distill.loss_weight > 0
    return {
        "step": step,
        "loss": {"name": config.loss.name, **dict(config.loss.options)} if by_labels else None,
        "data": hashlib.sha256(pictures.read_bytes()).hexdigest() if lines else None,
        "images": max(len(lines) - 1, 0) or None,
        "classes": len(json.loads(lines[0])) if lines else None,
        "weights": weights
        and {
            "source": _without_folder(str(weights.get("source", ""))),
            "sha256": weights.get("sha256"),
            "license": (weights.get("metadata") or {}).get("license"),
        },
        "seen": len(seen.record(workdir).get("classes", ())),
        "teacher": teacher
        and {
            "source": _without_folder(str(teacher.get("teacher", ""))),
            "step": teacher.get("step"),
            "sha256": teacher.get("sha256"),
            "backbone": teacher["config"]["model"]["backbone"],
            "dimensions": teacher["config"]["model"]["feature_size"],
        },
        "results": results and {"test": results.get("test"), "baselines": results.get("baselines")},
    }


def _without_folder(source: str) -> str:
    return source if source.startswith(PREFIX) else Path(source).name


def _content(path: Path) -> dict[str, Any] | None:
    """The table in a JSON file; None where there is none."""
    content = parse_json(path.read_bytes(), printable(path)) if path.is_file() else None
    return content if isinstance(content, dict) else None
