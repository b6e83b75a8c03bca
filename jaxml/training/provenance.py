"""Compares what a checkpoint was learned with and from, options and images, with those of the run that takes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxml import config as configs
from jaxml.config import Config
from jaxml.data import Index, splits
from jaxml.errors import RunError
from jaxml.files import printable, write_atomically

MAY_CHANGE = (
    "data.root",
    "data.input",
    "data.cache",
    "model.weights",
    "distill.teacher",
    "train.devices",
    "train.profile",
    "train.steps:",
    "train.patience",
    "train.writers",
    "eval.",
)
"""Options, by the beginning of what `config.differences` writes of them, that a resumed run may set anew.

None changes a step that was made; `train.steps` changes the schedule of those that follow. The
teacher may have moved, no more: see `check_teacher`.
"""

EMBEDDING = ("eval.size", "eval.mirror", "eval.crops", "eval.feature_size")
"""Of these, the options that do change it where lists of triplets are drawn by embeddings."""


@dataclass(frozen=True)
class Pictures:
    """The data set of a run, as lines of JSON: one with the class names, then one for each image."""

    lines: tuple[str, ...]

    @classmethod
    def of(cls, index: Index) -> Pictures:
        """Name, label, box and SHA-256 of every image of an index that has been checked, and its part if stated."""
        boxes = [None] * len(index.names) if index.boxes is None else np.asarray(index.boxes).tolist()
        columns: list[Sequence[Any]] = [index.names, index.labels.tolist(), boxes, index.hashes]
        if index.split:
            columns.append(_parts(index))
        rows = zip(*columns, strict=True)
        return cls((json.dumps(index.class_names), *map(json.dumps, rows)))

    @cached_property
    def text(self) -> str:
        """Contents of `data.jsonl`."""
        return "".join(f"{line}\n" for line in self.lines)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data set: numbers of images and classes, and the SHA-256 of `text`."""
        classes = len(json.loads(self.lines[0]))
        sha256 = hashlib.sha256(self.text.encode()).hexdigest()
        return {"images": len(self.lines) - 1, "classes": classes, "sha256": sha256}

    def save(self, workdir: Path) -> None:
        """Write `data.jsonl`, by which a later difference can be named."""
        write_atomically(workdir / "data.jsonl", self.text)


def _parts(index: Index) -> list[str]:
    """The part that the data set states for the class of each image."""
    part_of = {
        label: part
        for part, classes in splits.split(index.split, len(index.class_names)).items()
        for label in classes.tolist()
    }
    return [part_of.get(label, "") for label in index.labels.tolist()]


def changed(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Options in which two configurations differ: those that make it another run, and those that may change."""
    by_embeddings = old.train.mode == "input_triplets" and old.triplets.sampling != "random"
    fixed = EMBEDDING if by_embeddings else ()
    lines = configs.differences(old, new)
    free = [line for line in lines if line.startswith(MAY_CHANGE) and not line.startswith(fixed)]
    return [line for line in lines if line not in free], free


def meta(config: Config, pictures: Pictures, teacher: dict[str, Any] | None = None) -> dict[str, Any]:
    """The meta data of a checkpoint: the configuration, the fingerprint of the data set, the identity of a teacher."""
    found = {"config": configs.to_dict(config), "data": pictures.fingerprint}
    return found if teacher is None else {**found, "teacher": teacher}


def check_config(step: int, meta: dict[str, Any], config: Config) -> None:
    """RunError unless a checkpoint was written by this configuration, up to what may change."""
    if different := changed(configs.from_dict(meta["config"]), config)[0]:
        raise RunError(
            f"checkpoint {step} is of another run; it differs in {'; '.join(different)} (checkpoint -> this run)"
        )


def check_pictures(step: int, meta: dict[str, Any], pictures: Pictures, workdir: Path) -> None:
    """RunError unless a checkpoint was written by a run that saw these pictures; old checkpoints do not say."""
    before, now = meta.get("data"), pictures.fingerprint
    if before is None or before == now:
        return
    raise RunError(
        f"checkpoint {step} is of a run on other pictures: {_counts(before)} then, {_counts(now)} now"
        f"{_first_change(before, pictures, workdir)}; restore them, or give --other_data to take those that are there"
    )


def check_teacher(step: int, meta: dict[str, Any], teacher: dict[str, Any] | None) -> None:
    """RunError unless a checkpoint was learned from this teacher, or from none where there is none."""
    before = meta.get("teacher")
    if before != teacher:
        raise RunError(
            f"checkpoint {step} has learned from {_teacher(before)}, but --distill.teacher is {_teacher(teacher)}; "
            f"give the directory of the run that it has learned from, as that was (see teacher.json)"
        )


def _teacher(identity: dict[str, Any] | None) -> str:
    return "no teacher" if identity is None else f"step {identity['step']} of run {identity['sha256'][:12]}"


def _counts(fingerprint: dict[str, Any]) -> str:
    return f"{fingerprint['images']} images of {fingerprint['classes']} classes"


def _first_change(before: dict[str, Any], pictures: Pictures, workdir: Path) -> str:
    """The first image that differs, as far as `data.jsonl` is still there to tell."""
    path = workdir / "data.jsonl"
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != before["sha256"]:
        return ""
    old = Pictures(tuple(data.decode().splitlines()))
    if old.lines[0] != pictures.lines[0]:
        return ", with other classes"
    rows = [{json.loads(line)[0]: line for line in part.lines[1:]} for part in (old, pictures)]
    for name, line in rows[0].items():
        if name not in rows[1]:
            return f", first of all {printable(name)} is missing"
        if rows[1][name] != line:
            return f", first of all {printable(name)} is another one, or has another label, box or part"
    added = [name for name in rows[1] if name not in rows[0]]
    return f", first of all {printable(added[0])} is new" if added else ", in another order"
