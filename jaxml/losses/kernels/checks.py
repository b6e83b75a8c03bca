"""Argument checks: one clear ValueError, at trace time, that names the argument."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import arguments
from jaxml.losses.kernels.blocks import References
from jaxml.losses.kernels.devices import number_of_devices
from jaxml.losses.kernels.labels import class_indices, keys
from jaxml.losses.kernels.relations import Masks

Array = jax.Array


def choice(name: str, value: object, allowed: Collection[object]) -> None:
    """Raise a ValueError that lists the allowed values."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> None:
    """Raise a ValueError for a number out of range; traced values pass."""
    if isinstance(value, jax.core.Tracer):
        return
    # Not jax.numpy, which under jit would trace even what is known.
    number = arguments.array(name, value, "a finite number")
    limits = {
        "above": (above, np.greater),
        "of at least": (minimum, np.greater_equal),
        "of at most": (maximum, np.less_equal),
    }
    stated = {words: limit for words, (limit, _) in limits.items() if limit is not None}
    kept = all(np.all(test(number, limit)) for limit, test in limits.values() if limit is not None)
    if number.ndim != 0 or not np.isfinite(number) or not kept:
        said = " and ".join(f"{words} {limit:g}" for words, limit in stated.items())
        raise ValueError(f"{name} must be a finite number{' ' * bool(said)}{said}, got {value!r}")


def block_size(value: int | None) -> None:
    """Raise a ValueError unless the number of anchors in a block is None, for our own choice, or positive."""
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"block_size must be a positive integer or None, got {value!r}")


def _array(name: str, value: Any, form: str) -> Any:
    """The value as an array of any shape: on the device, traced or not, if it is there already, else on the host."""
    return value if isinstance(value, jax.Array) else arguments.array(name, value, form)


def embedded(name: str, embeddings: Any) -> Array:
    """Check embeddings and return them as float32 [B, D]; ValueError if they have another shape or type."""
    x = _array(name, embeddings, "a non-empty float array [B, D]")
    if x.ndim != 2 or 0 in x.shape or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} must be a non-empty float array [B, D], got {x.dtype} {x.shape}")
    return jnp.asarray(x, jnp.float32)


def labelled(
    embeddings: Any, labels: Any, name: str = "embeddings", label_name: str = "labels"
) -> tuple[Array, Any]:
    """Check one set of embeddings and labels; return them as float32 [B, D], and as an array of integers [B].

    Raises:
        ValueError: wrong shape or type, or lengths that differ.
    """
    x = embedded(name, embeddings)
    y = _array(label_name, labels, "an integer array [B]")
    if y.ndim != 1 or not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(f"{label_name} must be an integer array [B], got {y.dtype} {y.shape}")
    if len(x) != len(y):
        raise ValueError(f"{label_name} must have one entry for each of the {len(x)} {name}, got {len(y)}")
    return x, y


def batch(
    embeddings: Any,
    labels: Any,
    references: Any,
    reference_labels: Any,
    reference_mask: Any,
    axis_name: str | None,
) -> tuple[Array, Array | Masks, References | None]:
    """Check a batch and, where given, the set that it is compared with; labels become int32 `keys`, masks stay masks.

    Args:
        embeddings: float [B, D].
        labels: int [B].
        references: float [M, D].
        reference_labels: int [M].
        reference_mask: bool [M].
        axis_name: mapped axis that the batch is divided over.

    Returns:
        float32 [B, D], int32 [B], and the references.

    Raises:
        ValueError: wrong shape or type, or an argument without the one that it belongs to.
    """
    if isinstance(labels, Masks):
        return _masked(embeddings, labels, references, reference_labels, reference_mask, axis_name)
    x, y = labelled(embeddings, labels)
    if references is None and reference_labels is None:
        if reference_mask is not None:
            raise ValueError("reference_mask must be given together with references")
        return x, keys([y], axis_name)[0], None
    if references is None or reference_labels is None:
        raise ValueError("references and reference_labels must be given together")
    r, ry = labelled(references, reference_labels, "references", "reference_labels")
    if r.shape[1] != x.shape[1]:
        raise ValueError(f"references must be as wide as embeddings ({x.shape[1]}), got {r.shape[1]}")
    if reference_mask is not None:
        reference_mask = boolean(
            "reference_mask", reference_mask, r.shape[:1], "one entry for each of the references"
        )
    y, ry = keys([y, ry], axis_name)
    return x, y, References(r, ry, reference_mask)


def _masked(
    embeddings: Any,
    masks: Masks,
    references: Any,
    reference_labels: Any,
    reference_mask: Any,
    axis_name: str | None,
) -> tuple[Array, Masks, References | None]:
    """`batch` with masks in place of labels."""
    x = embedded("embeddings", embeddings)
    if reference_labels is not None:
        raise ValueError("reference_labels must not be given where masks take the place of labels")
    r, count = None, x.shape[0] * number_of_devices(axis_name)
    if references is not None:
        r = References(z := embedded("references", references), jnp.zeros_like(z, jnp.int32, shape=len(z)))
        count = len(z)
        if z.shape[1] != x.shape[1]:
            raise ValueError(f"references must be as wide as embeddings ({x.shape[1]}), got {z.shape[1]}")
    if reference_mask is not None:
        if r is None:
            raise ValueError("reference_mask must be given together with references")
        form = "one entry for each of the references"
        r = r._replace(mask=boolean("reference_mask", reference_mask, (count,), form))
    shape, form = (x.shape[0], count), "a row for each of the embeddings, a column for each candidate"
    found = Masks(*(boolean(name, mask, shape, form) for name, mask in masks._asdict().items()))
    return x, found, r


def boolean(name: str, value: Any, shape: tuple[int, ...], means: str) -> Array:
    """Check a mask and return it; ValueError if it has another shape or type."""
    form = f"a boolean array {list(shape)}, {means}"
    mask = _array(name, value, form)
    if mask.dtype != bool or mask.shape != shape:
        raise ValueError(f"{name} must be {form}, got {mask.dtype} {mask.shape}")
    return jnp.asarray(mask)


def centres(
    name: str, value: Any, labels: Any, width: int, ndim: int = 2, parts: int = 1
) -> tuple[Array, Array]:
    """Check proxies or centres, float [classes, ..., D], and labels int [B] that index them.

    Args:
        name: of the parameter, for messages.
        value: proxies or centres.
        labels: of the batch.
        width: D, of the embeddings.
        ndim: 2 for proxies, 3 for centres.
        parts: devices that the classes are divided over, whose labels are those of all of them.

    Returns:
        float32 [classes, ..., D] and int32 [B].

    Raises:
        ValueError: wrong shape or type, or labels out of range.
    """
    value = _array(name, value, "a float array")
    if value.ndim != ndim or value.shape[-1] != width or not jnp.issubdtype(value.dtype, jnp.floating):
        form = "[classes, D]" if ndim == 2 else "[classes, centres, D]"
        raise ValueError(
            f"{name} must be a float array {form} with D = {width}, got {value.dtype} {value.shape}"
        )
    return jnp.asarray(value, jnp.float32), class_indices(name, parts * value.shape[0], labels)


def boundaries(name: str, value: Any, labels: Any) -> tuple[Array, Array]:
    """Check one number for all classes, or one for each class.

    Args:
        name: of the parameter, for messages.
        value: float [] or [classes].
        labels: int [B], class indices where there is one number for each class.

    Returns:
        float32 [1] or [classes], and the place of each image in it, int32 [B].

    Raises:
        ValueError: wrong shape or type, or labels out of range.
    """
    value = _array(name, value, "a float or a float array [classes]")
    if value.ndim > 1:
        raise ValueError(f"{name} must be a scalar or an array [classes], got {value.shape}")
    beta = jnp.asarray(value, jnp.float32)
    if beta.ndim == 0:
        return beta[None], jnp.zeros(len(labels), jnp.int32)
    return beta, class_indices(name, beta.shape[0], labels)


def class_weights(value: Any, classes: int | str = "classes") -> Array:
    """Check weights of the classes, float [classes], and return them as float32; any number of them unless it is given.

    Raises:
        ValueError: wrong shape or type, or a known weight that is negative or not finite.
    """
    form = f"a float array [{classes}] of finite numbers of at least 0"
    weights = _array("class_weights", value, form)
    shape = (classes,) if isinstance(classes, int) else (weights.size,)
    if weights.shape != shape or not jnp.issubdtype(weights.dtype, jnp.floating):
        raise ValueError(f"class_weights must be {form}, got {weights.dtype} {weights.shape}")
    known = not isinstance(weights, jax.core.Tracer)
    if known and not np.all((np.asarray(weights) >= 0) & np.isfinite(np.asarray(weights))):
        raise ValueError(f"class_weights must be {form}")
    return jnp.asarray(weights, jnp.float32)
