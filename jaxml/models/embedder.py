"""The embedding network: backbone, pooling, dropout and head."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxml import config
from jaxml.config.checks import checked
from jaxml.models.backbones import BACKBONES
from jaxml.models.dropout import dropout
from jaxml.models.layers import Conv, relu
from jaxml.models.pooling import POOLING
from jaxml.models.stages import as_in_evaluation

Array = jax.Array

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Embedder(nn.Module):
    """Maps normalised images [b, H, W, 3] to embeddings float32 [b, feature_size], which are not normalised.

    With the head
        linear: x = W pool(backbone(image)) + c
        conv:   x = pool(relu(conv1x1(backbone(image)))), as SqueezeNet's classifier (Iandola et al. 2016)
        none:   x = pool(backbone(image))

    where pool is a module of `jaxml.models.pooling`. The parameters are in {"backbone", "head", "pooling"}, each only
    where it has some.
    """

    backbone: nn.Module
    head: nn.Dense | Conv | None
    pooling: nn.Module
    dropout: float = 0.0
    frozen_stages: tuple[str, ...] = ()
    """Stages of the backbone in which BatchNorm and dropout are always as in evaluation."""

    def __call__(self, images: Array, train: bool, keys: Array | None = None) -> Array:
        """Embeddings float32 [b, feature_size] of normalised images [b, H, W, 3].

        Args:
            images: float [b, H, W, 3].
            train: whether dropout is active and BatchNorm takes the statistics of the batch.
            keys: PRNG keys [b] of the images, which dropout needs.

        Raises:
            ValueError: the images have another shape, or dropout has no keys.
        """
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images: [batch, height, width, 3] expected, got shape {tuple(images.shape)}")
        with as_in_evaluation(self.frozen_stages, self.backbone.path):
            x = self.backbone(images, train, keys)
        if x.ndim == 4 and not isinstance(self.head, Conv):
            x = self.pooling(x.astype(jnp.float32))
        if train and self.dropout > 0:
            x = dropout(x, self.dropout, keys, layer=0)
        # In float32 whatever the backbone's dtype: the head is small, and distances are taken from its output.
        x = x.astype(jnp.float32)
        if isinstance(self.head, Conv):
            return self.pooling(relu(self.head(x)))
        return x if self.head is None else self.head(x)


def build(model: config.Model, axis_name: str | None = None) -> Embedder:
    """The embedding network that `model` describes; BatchNorm "sync" averages over the devices on `axis_name`.

    Raises:
        ValueError: an option has a value that it cannot have, or that does not fit the backbone; the message names it.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxml import config
        >>> from jaxml.models import build, init
        >>> network = build(config.Model(backbone="simple", feature_size=16))
        >>> variables = init(network, jax.random.key(0), size=64)
        >>> network.apply(variables, jnp.zeros((2, 64, 64, 3)), train=False).shape
        (2, 16)
    """
    model = checked(config.Model, model, "model.")
    if model.backbone not in BACKBONES:
        raise ValueError(f"--model.backbone is {model.backbone!r}; it must be one of {', '.join(BACKBONES)}")
    row = BACKBONES[model.backbone]
    if not row.spatial and (model.head == "conv" or model.pooling != "avg"):
        raise ValueError(
            f"--model.backbone {model.backbone} gives a vector, not a map: it must have --model.head linear or none "
            f"and --model.pooling avg"
        )
    kind = _head_kind(model)
    if model.head_init == "pca" and kind != "linear":
        raise ValueError(f"--model.head_init pca needs --model.head linear; it is {model.head}")
    if kind == "none" and model.feature_size != row.features:
        raise ValueError(
            f"--model.feature_size is {model.feature_size}; with --model.head none it must be {row.features}, the "
            f"features of {model.backbone}"
        )
    if model.frozen_stages > len(row.stages):
        raise ValueError(
            f"--model.frozen_stages is {model.frozen_stages}; it must be at most {len(row.stages)}, the stages of "
            f"{model.backbone}"
        )
    backbone = row.module(
        frozen=model.batch_norm == "frozen",
        axis_name=axis_name if model.batch_norm == "sync" else None,
        dtype=DTYPES[model.dtype],
        remat=model.remat,
    )
    return Embedder(
        backbone,
        _head(kind, model.feature_size),
        POOLING[model.pooling](),
        model.dropout,
        row.stages[: model.frozen_stages],
    )


def init(module: nn.Module, key: Array, size: int | tuple[int, int]) -> dict[str, Any]:
    """Fresh variables {"params", "batch_stats"} of `module` for images of `size`, their side or (height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    images = jnp.zeros((1, height, width, 3))
    # Under jit the forward pass is not computed, because its result is not used. The rest, one random generator per
    # parameter, compiles six times faster without optimisation.
    options: dict[str, bool | str] = {"xla_backend_optimization_level": "0"}
    return jax.jit(lambda key: module.init(key, images, train=False), compiler_options=options)(key)


def shapes(module: nn.Module, size: int) -> dict[str, Any]:
    """Shapes and types of the variables that `init` would return for images of side `size`; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(partial(module.init, train=False), jax.random.key(0), images)


def _head_kind(model: config.Model) -> str:
    """The head that is built: for "classifier" the one that the backbone's weights have."""
    head: str = model.head
    if head != "classifier":
        return head
    kind = BACKBONES[model.backbone].classifier_head
    if kind is None:
        raise ValueError(
            f"--model.head is classifier, but {model.backbone} has no pretrained classifier; give linear or none"
        )
    return kind


def _head(kind: str, feature_size: int) -> nn.Dense | Conv | None:
    xavier_normal = jax.nn.initializers.glorot_normal()
    if kind == "linear":
        return nn.Dense(feature_size, kernel_init=xavier_normal)
    if kind == "conv":
        return Conv(feature_size, (1, 1), kernel_init=xavier_normal)
    return None
