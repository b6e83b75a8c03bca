"""The stages of a backbone, from the images on, and how the first of them are kept frozen."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn

from jaxml.models.dropout import Dropout
from jaxml.models.layers import BatchNorm


def stage_of(stages: Sequence[str], path: str) -> int | None:
    """Number, from 0 on, of the stage of a parameter `layer/.../name` of a backbone; None if it is in no stage.

    Example:
        >>> stage_of(["conv1|bn1", "layer1_.*"], "layer1_2/conv1/kernel")
        1
    """
    layer = path.partition("/")[0]
    return next((number for number, regex in enumerate(stages) if re.fullmatch(regex, layer)), None)


def as_in_evaluation(stages: Sequence[str], backbone: tuple[str, ...]) -> AbstractContextManager[Any]:
    """Context in which BatchNorm and dropout of some stages ignore `train`.

    BatchNorm takes its running statistics there and does not update them. `backbone` is the module's path.
    """

    def call(
        function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        path = context.module.path[len(backbone) :]
        if isinstance(context.module, BatchNorm | Dropout) and stage_of(stages, "/".join(path)) is not None:
            x, _, *others = args
            return function(x, False, *others, **kwargs)
        return function(*args, **kwargs)

    return nn.intercept_methods(call)
