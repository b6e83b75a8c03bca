"""Checks that a run can be trained, before its images are decoded and its directory is claimed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxml import losses
from jaxml.config import Config
from jaxml.data import Index, categories
from jaxml.files import expand, printable
from jaxml.models.weights import packages
from jaxml.training import learner
from jaxml.training.devices import parallel
from jaxml.training.step import objective
from jaxml.training.teacher import Teacher
from jaxml.training.weights import load_weights


def from_anywhere(config: Config) -> Config:
    """The configuration with whole paths, which are the same from whatever folder the run is opened later."""
    root, weights, teacher = config.data.root, config.model.weights, config.distill.teacher
    if root and "://" not in root:
        root = str(expand(root, "--data.root").absolute())
    if weights not in ("", packages.AUTO) and "://" not in weights:
        weights = str(expand(weights, "--model.weights").absolute())
    if teacher:
        teacher = str(expand(teacher, "--distill.teacher").absolute())
    return replace(
        config,
        data=replace(config.data, root=root),
        model=replace(config.model, weights=weights),
        distill=replace(config.distill, teacher=teacher),
    )


def check_network(config: Config, devices: Sequence[Any], teacher: Teacher | None) -> None:
    """Check network, loss, optimiser and teacher by their shapes, which computes nothing, and read the weights.

    Raises:
        ValueError: a name or an option of theirs cannot be; names it.
        WeightFormatError: the weights are not those of the backbone.
    """
    data, share = config.data, _batch(config) // (len(devices) * jax.process_count())
    if config.train.chunk and share % config.train.chunk:
        raise ValueError(
            f"--train.chunk is {config.train.chunk}, which does not divide the {share} images of a device; give a "
            f"number that does, or 0"
        )
    made = []

    def init(module: nn.Module, key: jax.Array, size: int) -> dict[str, Any]:
        try:
            return dict(module.init(key, jnp.zeros((1, size, size, 3)), train=False))
        except ValueError as error:
            raise ValueError(f"--data.size is {size}: {error}") from None

    def create() -> learner.TrainState:
        found, state = learner.create(config, data.classes_per_batch, init)
        made.append(found)
        return state

    state = jax.eval_shape(create)
    if config.model.weights:
        load_weights(config, state)
    network, loss = learner.without_loss(state.params)
    variables = {"params": network, "batch_stats": state.batch_stats}
    size = config.eval.size or data.size
    images = jax.ShapeDtypeStruct((share, size, size, 3), jnp.float32)
    try:
        outputs = jax.eval_shape(partial(made[0].module.apply, train=False), variables, images)
    except ValueError as error:
        raise ValueError(f"--eval.size is {size}: {error}") from None
    labels, guide = jax.ShapeDtypeStruct((share,), jnp.int32), _guide(teacher, share)
    outputs, labels, guide = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype), (outputs, labels, guide)
    )
    apart = parallel(partial(objective, made[0]), (None, 0, 0, None, 0, None), devices, out_axes=0)
    try:
        jax.eval_shape(apart, loss.get("loss"), outputs, labels, jax.random.key(0), guide, state.memory)
    except ValueError as error:
        raise ValueError(f"--loss.options: {error}") from None


def _guide(teacher: Teacher | None, share: int) -> jax.ShapeDtypeStruct | None:
    """Shape of the teacher's embeddings of so many images; None without a teacher."""
    if teacher is None:
        return None
    size = teacher.config.data.size
    images = jax.ShapeDtypeStruct((share, size, size, 3), jnp.float32)
    return jax.eval_shape(partial(teacher.network.module.apply, train=False), teacher.variables, images)


def check_images(config: Config, index: Index, parts: Mapping[str, np.ndarray]) -> None:
    """Check that batches can be drawn and clusters be made of what the split gives; warn of classes with few images.

    Raises:
        ValueError: there are fewer classes than a batch needs, or fewer images than clusters.
    """
    sizes = np.bincount(index.labels, minlength=len(index.class_names))
    if config.train.mode == "batch":
        train = np.concatenate([parts[name] for name in config.data.train_on.split("+")])
        _check_batch(config, index, train, sizes[train])
    for part in ("val", "test") if config.data.train_on == "train" else ("test",):
        images, clusters = sizes[parts[part]].sum(), len(parts[part]) * config.eval.clusters_per_class
        if clusters > images:
            raise ValueError(
                f"--eval.clusters_per_class is {config.eval.clusters_per_class}, which makes {clusters} clusters of "
                f"{len(parts[part])} {part} classes, but they have {images} images; give a smaller number"
            )


def _check_batch(config: Config, index: Index, classes: np.ndarray, sizes: np.ndarray) -> None:
    """That P x K images can be drawn of the classes int [C] to train on, which have so many images, int [C]."""
    data, names = config.data, [index.class_names[label] for label in classes]
    if data.classes_per_batch > len(names):
        raise ValueError(
            f"--data.classes_per_batch is {data.classes_per_batch}, but --data.split {data.split} leaves {len(names)} "
            f"classes to train on; give at most {len(names)}, or another split"
        )
    if config.loss.name not in losses.PARAMETERS:
        for option in ("classes_per_batch", "images_per_class"):
            if getattr(data, option) == 1:
                raise ValueError(
                    f"--data.{option} is 1, but {config.loss.name} compares images within and between classes; give 2 "
                    f"or more, or a loss with proxies, such as --loss.name proxy_anchor"
                )
    if data.category:
        categories.of_classes(data.category, index, classes)
    if few := np.count_nonzero(sizes < data.images_per_class):
        smallest = int(sizes.argmin())
        example = f"{printable(names[smallest])} with {sizes[smallest]}"
        warnings.warn(
            f"{few} of {len(names)} classes to train on have fewer images than --data.images_per_class "
            f"({data.images_per_class}), such as {example}: batches repeat them",
            stacklevel=2,
        )


def _batch(config: Config) -> int:
    return config.data.classes_per_batch * config.data.images_per_class
