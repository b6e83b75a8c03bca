"""Matryoshka training: a loss of nested parts of the embedding, so that few of its dimensions serve as well as all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import Any

import jax
from jax import Array

from jaxml import arguments
from jaxml.distances import l2_normalize
from jaxml.losses.kernels import checks
from jaxml.losses.kernels.types import Aux, Loss


def matryoshka(loss: Loss, sizes: Sequence[int], *, normalize: bool = True) -> Loss:
    """Make of a loss its mean over the first m dimensions of the embeddings, for each m of `sizes`, and over all D.

    1/(n + 1) (sum_{m in sizes} L(x[:m]) + L(x)), n the number of sizes; each part is scaled to unit length by itself.

    Learned parameters are apart for each size, as the classifiers of the paper are: proxies must be as wide as what
    they are compared with, and the boundaries of `margin` are distances, which differ with the number of dimensions.

    Args:
        loss: a function of jaxml.losses, or any of (embeddings [B, D], targets, *parameters, **options) that returns
            (loss, aux).
        sizes: whole numbers in ascending order, each less than the D of the embeddings to come.
        normalize: scale each part, all D dimensions among them, to unit length; without it they are taken as they are.

    Returns:
        A function like `loss`: its aux are means over the parts, `references` are cut as the embeddings are, and every
        learned parameter is a sequence of n + 1, one for each of the sizes and the last for D.

    Raises:
        ValueError: sizes are not whole numbers in ascending order; and, when the function is called, a size is not
            below D, or a parameter is no sequence of n + 1.

    Source: Kusupati et al. 2022, Matryoshka Representation Learning, section 3, with equal weights.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0, 0.2], [0.6, 0.8, 0.1], [1.0, 0.0, 0.3], [0.8, -0.6, 0.1]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss = losses.matryoshka(losses.triplet, sizes=[2])
        >>> value, aux = loss(embeddings, labels, margin=0.5)
        >>> print(f"{value:.3f}, {aux['active']:.1f} of {aux['valid']:.0f} triplets")
        0.242, 2.0 of 8 triplets
    """
    last = 0
    for size in sizes:
        if arguments.whole("sizes", size) <= last:
            raise ValueError(f"sizes must be in ascending order, each once, got {tuple(sizes)}")
        last = size

    def cut(x: Array, size: int) -> Array:
        return l2_normalize(x[:, :size]) if normalize else x[:, :size]

    @wraps(loss)
    def nested(embeddings: Any, targets: Any, *parameters: Any, **options: Any) -> tuple[Array, Aux]:
        whole = {"embeddings": checks.embedded("embeddings", embeddings)}
        if options.get("references") is not None:
            whole["references"] = checks.embedded("references", options.pop("references"))
        width = whole["embeddings"].shape[1]
        if last >= width:
            raise ValueError(f"sizes must be less than the {width} dimensions of the embeddings, got {last}")
        every = (*sizes, width)
        for parameter in parameters:
            if not isinstance(parameter, Sequence) or len(parameter) != len(every):
                raise ValueError(f"parameters must be a sequence of {len(every)}, one for each of {every}")
        found = []
        for i, size in enumerate(every):
            parts = {name: cut(x, size) for name, x in whole.items()}
            own = (parameter[i] for parameter in parameters)
            found.append(loss(parts.pop("embeddings"), targets, *own, **parts, **options))
        return jax.tree.map(lambda *values: sum(values) / len(values), *found)

    return nested
