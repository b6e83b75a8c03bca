"""Everything a run depends on, as frozen dataclasses; saved with every run and overridden on the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

Options = dict[str, str | int | float | bool]


@dataclass(frozen=True)
class Data:
    """Which images, which classes, and how batches are drawn from them."""

    source: str = "glyphs"
    """Where images come from: glyphs, cub, folder, or a tfds name such as caltech_birds2011."""
    root: str = ""
    """Folder of the data set (cub, folder, tfds); glyphs needs none."""
    split: str = "poster"
    """Class split: poster, standard, or explicit ranges train/val/test such as 0-59/60-79/80-99."""
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


@dataclass(frozen=True)
class Model:
    """The embedding network: backbone, then head."""

    backbone: str = "simple"
    """simple, shallow, squeezenet1_0, squeezenet1_1, resnet50 or inception_v3."""
    weights: str = ""
    """Pretrained weights (safetensors) for the backbone; empty starts from random numbers."""
    head: Literal["linear", "conv", "none"] = "linear"
    """linear: a fully connected layer; conv: the original's SqueezeNet head; none: pooled features."""
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
    options: Options = field(default_factory=dict)
    """The loss function's own hyper-parameters, such as: margin 0.2 formula soft mining local."""
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
    devices: int = 0
    """Devices to train on; 0 takes all."""


@dataclass(frozen=True)
class Eval:
    """Clustering and retrieval."""

    batch_size: int = 256
    """Images embedded at a time, over all devices."""
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
    eval: Eval = field(default_factory=Eval)
