"""The networks of PyTorch that ours are compared with, and torchvision beside any version of torch."""

import sys
from functools import cache
from types import ModuleType
from typing import Any


@cache
def import_torchvision() -> ModuleType:
    """The module torchvision; its operators are declared without code if they were compiled for another torch."""
    import torch

    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        global _library  # the operators live as long as this object
        _library = torch.library.Library("torchvision", "DEF")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


def features(name: str, size: int) -> Any:
    """The network of a backbone of ours without its classifier, with random weights, for images of `size` px."""
    import torch

    if name.startswith("efficientnet_lite"):
        from efficientnet_lite_pytorch import EfficientNet

        options = {"image_size": [size, size], "dropout_rate": 0.0, "drop_connect_rate": 0.0}
        network = EfficientNet.from_name(name.replace("_", "-"), **options)
        network._fc = torch.nn.Identity()
        return network
    options = {"init_weights": False, "aux_logits": False} if name == "inception_v3" else {}
    network = import_torchvision().models.get_model(name, weights=None, **options)
    if name.startswith("squeezenet"):
        network.classifier = torch.nn.AdaptiveAvgPool2d((1, 1))
    else:
        network.fc = torch.nn.Identity()
    return network
