"""Argument checks: one clear ValueError, at trace time, that names the argument."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import arguments

Array = jax.Array


def choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise a ValueError that lists the allowed values."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def number(name: str, value: Any, *, above: float | None = None, minimum: float | None = None) -> None:
    """Raise a ValueError for a number out of range; traced values pass."""
    if isinstance(value, jax.core.Tracer):
        return
    # Not jax.numpy, which under jit would trace even what is known.
    number = arguments.array(name, value, "a finite number")
    low = (above is not None and not np.all(number > above)) or (
        minimum is not None and not np.all(number >= minimum)
    )
    if number.ndim != 0 or not np.isfinite(number) or low:
        limit = (
            f" above {above:g}"
            if above is not None
            else f" of at least {minimum:g}"
            if minimum is not None
            else ""
        )
        raise ValueError(f"{name} must be a finite number{limit}, got {value!r}")


def block_size(value: int | None) -> None:
    """Raise a ValueError unless the number of anchors in a block is left to us or positive."""
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"block_size must be a positive integer or None, got {value!r}")


def _form(name: str, value: Any, form: str) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of an array, traced or not."""
    if not isinstance(value, jax.Array):
        value = arguments.array(name, value, form)
    return np.shape(value), jnp.result_type(value)


def labelled(
    embeddings: Any, labels: Any, name: str = "embeddings", label_name: str = "labels"
) -> tuple[Array, Array]:
    """Check one set of embeddings and labels; return them as float32 [B, D] and int [B]."""
    shape, dtype = _form(name, embeddings, "a non-empty float array [B, D]")
    label_shape, label_dtype = _form(label_name, labels, "an integer array [B]")
    if len(shape) != 2 or 0 in shape or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} must be a non-empty float array [B, D], got {dtype} {shape}")
    if len(label_shape) != 1 or not jnp.issubdtype(label_dtype, jnp.integer):
        raise ValueError(f"{label_name} must be an integer array [B], got {label_dtype} {label_shape}")
    if shape[0] != label_shape[0]:
        raise ValueError(
            f"{label_name} must have one entry for each of the {shape[0]} {name}, got {label_shape[0]}"
        )
    return jnp.asarray(embeddings, jnp.float32), jnp.asarray(labels)


def batch(
    embeddings: Any, labels: Any, references: Any = None, reference_labels: Any = None
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Check a batch and, where given, the set that it is compared with."""
    x, y = labelled(embeddings, labels)
    if references is None and reference_labels is None:
        return x, y, None
    if references is None or reference_labels is None:
        raise ValueError("references and reference_labels must be given together")
    r, ry = labelled(references, reference_labels, "references", "reference_labels")
    if r.shape[1] != x.shape[1]:
        raise ValueError(f"references must be as wide as embeddings ({x.shape[1]}), got {r.shape[1]}")
    return x, y, (r, ry)


def centres(name: str, value: Any, labels: Any, width: int, ndim: int = 2) -> Array:
    """Check proxies or centres, [classes, ..., D], against the labels that index them."""
    shape, dtype = _form(name, value, "a float array")
    if len(shape) != ndim or shape[-1] != width or not jnp.issubdtype(dtype, jnp.floating):
        form = "[classes, D]" if ndim == 2 else "[classes, centres, D]"
        raise ValueError(f"{name} must be a float array {form} with D = {width}, got {dtype} {shape}")
    class_labels(name, shape[0], labels)
    return jnp.asarray(value, jnp.float32)


def class_labels(name: str, classes: int, labels: Any) -> None:
    """Labels that pick a row of a parameter must lie in its range; traced labels can not be checked."""
    if isinstance(labels, jax.core.Tracer):
        return
    known = np.asarray(labels)
    if np.min(known) < 0 or np.max(known) >= classes:
        raise ValueError(
            f"labels must be in 0..{classes - 1}, the classes of {name}, got {np.min(known)}..{np.max(known)}"
        )
