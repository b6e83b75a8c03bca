"""The embedding network: a backbone, pooling and a head."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxml import config
from jaxml.models.backbones import BACKBONES
from jaxml.models.layers import Conv, dropout, relu

Array = jax.Array

HEADS = ("linear", "conv", "none", "classifier")
POOLINGS = ("avg", "avg+max")
BATCH_NORMS = ("sync", "local", "frozen")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Embedder(nn.Module):
    """Backbone, dropout, head and pooling, [b, H, W, 3] -> float32 [b, feature_size], not normalised.

    head `linear`: x = W pool(backbone(image)) + c;
    head `conv`: x = pool(relu(conv1x1(backbone(image)))), SqueezeNet's classifier (Iandola et al. 2016);
    head `none`: x = pool(backbone(image)).
    Pooling `avg+max` is the sum of both (Kim et al. 2020, Proxy-Anchor). Parameters: {"backbone", "head"}.
    """

    backbone: nn.Module
    head: nn.Dense | Conv | None
    pooling: str = "avg"
    dropout: float = 0.0

    def __call__(self, images: Array, train: bool, keys: Array | None = None) -> Array:
        """Embeddings of normalised images; `keys` [b] are the images' PRNG keys, needed if dropout is active."""
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images: [batch, height, width, 3] expected, got shape {tuple(images.shape)}")
        x = self.backbone(images, train, keys)
        if x.ndim == 4 and not isinstance(self.head, Conv):
            x = _pool(x, self.pooling)
        if train and self.dropout > 0:
            x = dropout(x, self.dropout, keys, layer=0)
        # The head is small, and its output feeds distances: it stays in float32.
        x = x.astype(jnp.float32)
        if isinstance(self.head, Conv):
            return _pool(relu(self.head(x)), self.pooling)
        return x if self.head is None else self.head(x)


def build(model: config.Model, axis_name: str | None = None) -> Embedder:
    """Embedding network that `model` describes; BatchNorm "sync" averages over the devices on `axis_name`.

    ValueError names the option that has an unknown value or does not fit the backbone.
    """
    for option, value, allowed in (
        ("backbone", model.backbone, BACKBONES),
        ("head", model.head, HEADS),
        ("pooling", model.pooling, POOLINGS),
        ("batch_norm", model.batch_norm, BATCH_NORMS),
        ("dtype", model.dtype, DTYPES),
    ):
        if value not in allowed:
            raise ValueError(f"model.{option}: {value!r} is not one of {', '.join(allowed)}")
    if not 0 <= model.dropout < 1:
        raise ValueError(f"model.dropout: a rate in [0, 1) expected, got {model.dropout}")
    if model.feature_size < 1:
        raise ValueError(f"model.feature_size: at least 1 expected, got {model.feature_size}")
    row = BACKBONES[model.backbone]
    if not row.spatial and (model.head == "conv" or model.pooling != "avg"):
        raise ValueError(
            f"model.backbone: {model.backbone} gives a vector, not a map: "
            "it goes with head linear or none and pooling avg"
        )
    kind = _head_kind(model)
    if kind == "none" and model.feature_size != row.features:
        raise ValueError(
            f"model.feature_size: {model.feature_size}, but {model.backbone} with head none gives {row.features}"
        )
    backbone = row.module(
        frozen=model.batch_norm == "frozen",
        axis_name=axis_name if model.batch_norm == "sync" else None,
        dtype=DTYPES[model.dtype],
        remat=model.remat,
    )
    return Embedder(backbone, _head(kind, model.feature_size), model.pooling, model.dropout)


def init(module: nn.Module, key: Array, size: int | tuple[int, int]) -> dict[str, Any]:
    """Fresh variables {"params", "batch_stats"} of `module` for images of `size` (side, or height and width)."""
    height, width = (size, size) if isinstance(size, int) else size
    images = jnp.zeros((1, height, width, 3))
    # Under jit the forward pass, whose result is unused, is never computed. Unoptimised, the rest (one random
    # generator per parameter) compiles six times faster.
    options: dict[str, bool | str] = {"xla_backend_optimization_level": "0"}
    return jax.jit(lambda key: module.init(key, images, train=False), compiler_options=options)(key)


def _head_kind(model: config.Model) -> str:
    head: str = model.head
    if head != "classifier":
        return head
    kind = BACKBONES[model.backbone].classifier_head
    if kind is None:
        raise ValueError(
            f"model.head: {model.backbone} has no pretrained classifier; use head linear or none"
        )
    return kind


def _head(kind: str, feature_size: int) -> nn.Dense | Conv | None:
    xavier_normal = jax.nn.initializers.glorot_normal()
    if kind == "linear":
        return nn.Dense(feature_size, kernel_init=xavier_normal)
    if kind == "conv":
        return Conv(feature_size, (1, 1), kernel_init=xavier_normal)
    return None


def _pool(x: Array, pooling: str) -> Array:
    x = x.astype(jnp.float32)
    mean = x.mean(axis=(1, 2))
    return mean + x.max(axis=(1, 2)) if pooling == "avg+max" else mean
