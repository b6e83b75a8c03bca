"""What a loss is and returns."""

from __future__ import annotations

from collections.abc import Callable

from jax import Array

Aux = dict[str, Array]
"""Numbers that a loss reports beside its value, float32 []: `active` and `valid` terms."""

Loss = Callable[..., tuple[Array, Aux]]
"""loss(embeddings, labels, ...) -> float32 [], the value, and its numbers."""
