"""The weights of classes in the loss, from the expressions on their names that a configuration gives."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from jaxml.config import Loss
from jaxml.files import printable


def of_classes(config: Loss, names: Sequence[str]) -> np.ndarray | None:
    """Weights float32 [C] of the classes to learn from, which have these names; None where none are configured.

    Raises:
        ValueError: an expression that matches no class; names it.
    """
    if not config.class_weights:
        return None
    for regex, _ in config.class_weights:
        if not any(re.fullmatch(regex, name) for name in names):
            raise ValueError(
                f"--loss.class_weights: {regex!r} matches no class to train on; their names look like "
                f"{', '.join(map(printable, names[:3]))}"
            )
    found = [
        next((weight for regex, weight in config.class_weights if re.fullmatch(regex, name)), 1.0)
        for name in names
    ]
    return np.array(found, np.float32)
