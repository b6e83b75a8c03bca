"""Imports torchvision beside any version of torch: its networks are needed, its compiled operators are not."""

import sys
from functools import cache
from types import ModuleType


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
