"""The table of backbones: a new one is one file with a module, and one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn

from jaxml.models.efficientnet_lite import EfficientNetLite, timm_name
from jaxml.models.inception import InceptionV3
from jaxml.models.resnet import ResNet50
from jaxml.models.simple import Simple
from jaxml.models.squeezenet import PLAN_1_0, PLAN_1_1, SqueezeNet

RGB = tuple[float, float, float]

IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)
HALF: RGB = (0.5, 0.5, 0.5)


def _same(name: str) -> str:
    return name


@dataclass(frozen=True)
class Backbone:
    """A backbone: its constructor, and how its pretrained weights expect images."""

    module: Callable[..., nn.Module]
    """Called with `frozen`, `axis_name`, `dtype` and `remat`."""
    size: int
    """Side in pixels of the images that the weights were trained on."""
    mean: RGB
    """By channel; subtracted from pixels in 0 .. 1."""
    std: RGB
    """By channel; the difference is divided by it."""
    features: int
    """Channels of the output."""
    stages: tuple[str, ...]
    """Regular expressions, in forward order, on the names of its layers, with which the paths of its parameters begin:
    each layer is in one stage, and a stage takes nothing but the output of the one before."""
    spatial: bool = True
    """Whether the output is a map [b, h, w, features] or a vector [b, features]."""
    classifier: str | None = None
    """Name of the classifier's layer in weight files; None if there are no weight files."""
    classifier_head: Literal["linear", "conv"] | None = None
    """The kind of head that the classifier is."""
    rename: Callable[[str], str] = _same
    """The layers' own name for an array that a weight file may name otherwise."""


def _efficientnet_lite(size: int, width: float, depth: float) -> Backbone:
    return Backbone(
        partial(EfficientNetLite, width, depth),
        size,
        mean=(127 / 255,) * 3,  # (pixel - 127) / 128, of pixels 0 .. 255
        std=(128 / 255,) * 3,
        features=1280,
        stages=("conv_stem|bn1", *(f"blocks_{number}_.*" for number in range(7)), "conv_head|bn2"),
        classifier="classifier",
        classifier_head="linear",
        rename=partial(timm_name, depth=depth),
    )


SMALL = ("bn0|conv1|bn1", "conv2|bn2|dropout2", "fc1|bn3|dropout3")
"""Stages of the two networks from scratch."""

BACKBONES: dict[str, Backbone] = {
    "simple": Backbone(Simple, 64, HALF, HALF, 512, SMALL, spatial=False),
    "shallow": Backbone(
        partial(Simple, kernel_sizes=(7, 5), channels=(32, 32)), 96, HALF, HALF, 512, SMALL, spatial=False
    ),
    "squeezenet1_0": Backbone(
        partial(SqueezeNet, (96, 7), PLAN_1_0),
        224,
        IMAGENET_MEAN,
        IMAGENET_STD,
        512,
        ("features_0", "features_[3-5]", "features_([7-9]|10)", "features_12"),
        classifier="classifier.1",
        classifier_head="conv",
    ),
    "squeezenet1_1": Backbone(
        partial(SqueezeNet, (64, 3), PLAN_1_1),
        224,
        IMAGENET_MEAN,
        IMAGENET_STD,
        512,
        ("features_0", "features_[34]", "features_[67]", "features_(9|1[0-2])"),
        classifier="classifier.1",
        classifier_head="conv",
    ),
    "resnet50": Backbone(
        ResNet50,
        224,
        IMAGENET_MEAN,
        IMAGENET_STD,
        2048,
        ("conv1|bn1", "layer1_.*", "layer2_.*", "layer3_.*", "layer4_.*"),
        classifier="fc",
        classifier_head="linear",
    ),
    # The same for torchvision's weights and Google's: see InceptionV3.
    "inception_v3": Backbone(
        InceptionV3,
        299,
        HALF,
        HALF,
        2048,
        ("Conv2d_[12].*", "Conv2d_[34].*", "Mixed_5.*", "Mixed_6.*", "Mixed_7.*"),
        classifier="fc",
        classifier_head="linear",
    ),
    "efficientnet_lite0": _efficientnet_lite(224, width=1.0, depth=1.0),
    "efficientnet_lite1": _efficientnet_lite(240, width=1.0, depth=1.1),
    "efficientnet_lite2": _efficientnet_lite(260, width=1.1, depth=1.2),
}
