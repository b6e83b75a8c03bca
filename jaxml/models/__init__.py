"""Embedding networks as flax.linen modules: backbones, heads and pretrained weights."""

from jaxml.models.backbones import BACKBONES, Backbone
from jaxml.models.embedder import Embedder, build, init, shapes

__all__ = ["BACKBONES", "Backbone", "Embedder", "build", "init", "shapes"]
