"""Everything a run depends on, as frozen dataclasses; saved with every run and overridden on the command line."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxml import options
from jaxml.files import parse_json, write_json

Options = tuple[tuple[str, bool | int | float | str], ...]


@dataclass(frozen=True)
class Data:
    """Which images, which classes, and how batches are drawn from them."""

    source: str = "glyphs"
    """Where images come from: glyphs, cub, folder, or a tfds name such as caltech_birds2011."""
    root: str = ""
    """Folder of the data set (cub, folder, tfds); glyphs needs none."""
    split: str = "poster"
    """Class split: poster, standard, or explicit ranges train/val/test such as 0-59/60-79/80-99; without the
    third there is nothing to test on."""
    train_on: Literal["train", "train+val"] = "train"
    """Classes to learn from. With train+val nothing is left to choose a best step, so the last one is used."""
    input: Literal["resident", "tf_data"] = "resident"
    """resident: decoded once, kept in device memory; tf_data: streamed from disk by tensorflow."""
    crop_to_box: bool = True
    """Crop to the bounding box where the source has one."""
    stored_size: int = 64
    """Side, in pixels, to which images are decoded; augmentation crops from it."""
    size: int = 64
    """Side, in pixels, of the network's input."""
    crop_area: tuple[float, float] = (0.6, 1.0)
    """Range of the random crop's area as a share of the image; 1 1 takes the whole image."""
    flip: bool = True
    """Mirror half of the training images."""
    jitter: float = 0.0
    """Strength of random brightness, contrast and saturation; 0 is off."""
    classes_per_batch: int = 16
    """P: classes in a batch."""
    images_per_class: int = 4
    """K: images of each class in a batch."""
    cache: str = "~/.cache/jaxml"
    """Folder for decoded images."""
    on_error: Literal["raise", "skip"] = "raise"
    """raise: an image that is damaged, missing or changed ends the run; skip: such images are left out and listed."""


@dataclass(frozen=True)
class Model:
    """The embedding network: backbone, then head."""

    backbone: str = "simple"
    """simple, shallow, squeezenet1_0, squeezenet1_1, resnet50 or inception_v3."""
    weights: str = ""
    """Pretrained weights (safetensors) for the backbone; empty starts from random numbers."""
    head: Literal["linear", "conv", "none", "classifier"] = "linear"
    """linear: a fully connected layer; conv: the original's SqueezeNet head; none: pooled features; classifier: the
    layer of the weight file."""
    feature_size: int = 64
    """Dimensions of the embedding."""
    pooling: Literal["avg", "avg+max"] = "avg"
    """How a backbone's feature map becomes a vector."""
    dropout: float = 0.0
    """Dropout rate before the head."""
    normalize: bool = True
    """Scale embeddings to unit length."""
    batch_norm: Literal["sync", "local", "frozen"] = "sync"
    """Statistics over all devices, per device, or never updated."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network's arithmetic; parameters, distances and loss stay float32."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


@dataclass(frozen=True)
class Loss:
    """What the network minimises."""

    name: str = "triplet"
    """A name from jaxml.losses.LOSSES."""
    options: Options = ()
    """Pairs (hyper-parameter of the loss function, value), such as: margin 0.2 formula soft mining local."""
    norm_weight: float = 0.0
    """Weight of the mean length of the embeddings before normalisation."""


@dataclass(frozen=True)
class Optim:
    """Adam, its schedule, and learning rates by parameter group."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up; cosine ends at 0 on the last step."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) on kernels."""
    groups: tuple[tuple[str, float], ...] = ()
    """Pairs (regular expression on the parameter path, factor); the first match counts, 0 freezes."""


@dataclass(frozen=True)
class Train:
    """How long, how often, where."""

    mode: Literal["batch", "input_triplets"] = "batch"
    """batch: the loss finds its pairs and triplets in a batch of P x K images; input_triplets: the batch is made of
    triplets, see triplets."""
    steps: int = 1000
    """Optimiser steps."""
    seed: int = 0
    """Fixes initial parameters, batches and augmentation."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    eval_every: int = 200
    """Steps between clusterings of the validation classes."""
    save_every: int = 200
    """Steps between checkpoints."""
    steps_per_call: int = 1
    """Steps in one dispatch to the device (resident input); 16 or more keeps a GPU busy with small networks."""
    chunk: int = 0
    """Images of a device's batch embedded at a time: memory of the chunk, gradient of the batch; 0 is all."""
    devices: int = 0
    """Devices to train on; 0 takes all."""
    profile: int = 0
    """Calls to the device, after the first two, to record into the run's directory profile; 0 records none."""


@dataclass(frozen=True)
class Triplets:
    """How triplets are chosen before the network sees them (train.mode input_triplets; needs loss.name triplet).

    A batch of P x K images holds a third as many triplets.
    """

    sampling: Literal["random", "hardest", "semi_hard", "original_semi_hard", "kmeans"] = "random"
    """Which triplets are hard: see jaxml.training.input_triplets.draw."""
    hard_share: float = 0.6
    """Share of hard ones, the others being random."""
    regenerate_every: int = 100
    """Steps between new lists, each drawn with the embeddings of that step."""


@dataclass(frozen=True)
class Eval:
    """Clustering and retrieval."""

    batch_size: int = 256
    """Images embedded at a time, over all devices."""
    size: int = 0
    """Side, in pixels, of the network's input when it embeds; 0 is data.size. Random crops magnify, so that whole
    images do best somewhat larger than in training (Touvron et al. 2019)."""
    mirror: bool = False
    """Embed an image and its mirror image, and take the mean: twice the time."""
    clusters_per_class: int = 1
    """K-means clusters for each class."""
    kmeans_seeds: int = 5
    """K-means runs over which mean and deviation are taken."""


@dataclass(frozen=True)
class Config:
    """One run."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    triplets: Triplets = field(default_factory=Triplets)
    eval: Eval = field(default_factory=Eval)

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        for section, part in sections(self):
            for f in dataclasses.fields(part):
                name, value = f"{section}.{f.name}", getattr(part, f.name)
                options.check_type(name, value, f.type)
                options.check_range(name, value)
        options.check_groups(self.optim.groups)
        if self.model.dropout >= 1:
            raise ValueError(f"model.dropout is {self.model.dropout}; it must be under 1")
        if self.train.steps_per_call > 1:
            if self.data.input != "resident":
                raise ValueError(
                    "train.steps_per_call needs data.input resident: streamed batches come one at a time"
                )
            for name in ("steps", "eval_every", "save_every"):
                if getattr(self.train, name) % self.train.steps_per_call:
                    raise ValueError(f"train.{name} must be a multiple of train.steps_per_call")
        if self.train.mode == "input_triplets":
            self._check_triplets()
        low, high = self.data.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"data.crop_area is {low} {high}; it must be two shares with 0 < low <= high <= 1"
            )

    def _check_triplets(self) -> None:
        if self.loss.name != "triplet":
            raise ValueError(
                f"train.mode input_triplets needs loss.name triplet, whose formulas it uses; not {self.loss.name}"
            )
        if self.train.steps_per_call > 1:
            raise ValueError("train.steps_per_call needs train.mode batch: triplets come one batch at a time")
        if self.data.classes_per_batch * self.data.images_per_class % 3:
            raise ValueError(
                "train.mode input_triplets divides the batch into triplets: data.classes_per_batch x "
                "data.images_per_class must be a multiple of 3"
            )
        if not 0 <= self.triplets.hard_share <= 1:
            raise ValueError(f"triplets.hard_share is {self.triplets.hard_share}; it must be a share, 0 to 1")


def sections(config: Config) -> list[tuple[str, Any]]:
    """Name and dataclass of each section of a configuration."""
    return [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)]


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Plain nested dict of a configuration, as written to JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Mapping[str, Any]]) -> Config:
    """Configuration from a nested dict; what is not named keeps its default, unknown names are a ValueError."""
    if not isinstance(values, Mapping) or not all(isinstance(part, Mapping) for part in values.values()):
        raise ValueError("a configuration is a table of sections, each a table of options")
    parts: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(Config)}
    known = {f"{name}.{f.name}" for name, part in parts.items() for f in dataclasses.fields(part)}
    given = {f"{name}.{key}" for name, section in values.items() for key in section}
    given |= {f"{name}.*" for name in values if name not in parts}
    if unknown := sorted(given - known):
        named = ", ".join(map(options.shown, unknown[:5]))
        raise ValueError(f"unknown configuration options {named}; known: {', '.join(sorted(known))}")
    return Config(
        **{
            name: parts[name](**{key: _frozen(value) for key, value in section.items()})
            for name, section in values.items()
        }
    )


def load(path: str | Path) -> Config:
    """Configuration from a JSON file written by `save`; ValueError names a file that holds none, and why."""
    values = parse_json(Path(path).read_bytes(), path)
    try:
        return from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def save(path: str | Path, config: Config) -> None:
    """Write a configuration as JSON."""
    write_json(Path(path), to_dict(config))


def differences(old: Config, new: Config) -> list[str]:
    """One line `section.option: old -> new` for each option in which two configurations differ."""
    return [
        f"{section}.{key}: {value!r} -> {other[section][key]!r}"
        for other in [to_dict(new)]
        for section, part in to_dict(old).items()
        for key, value in part.items()
        if other[section][key] != value
    ]


def _frozen(value: Any) -> Any:
    """JSON's lists, and the lists in them, as tuples."""
    if not isinstance(value, list):
        return value
    return tuple(tuple(entry) if isinstance(entry, list) else entry for entry in value)
