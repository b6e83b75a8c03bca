"""Detects non-finite values, collapsed embeddings and exhausted memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np

from jaxml.config import Config
from jaxml.errors import TrainingFailed
from jaxml.training.callbacks import Callback
from jaxml.training.run import Run

log = logging.getLogger(__name__)

SPREAD = 1e-3
"""Embeddings nearer to their mean than this share of their length count as one point."""
PATIENCE = 20
"""Steps without an inactive triplet, their loss at the margin, after which training counts as collapsed."""


def check_finite(row: dict[str, float], squares: np.ndarray, names: list[str], step: int) -> None:
    """Raise a TrainingFailed that names the step and the tensors unless loss and gradients are finite.

    `squares` [n] are sums of squares of the gradients of the n parameters `names`.
    """
    bad = [name for name, value in row.items() if not np.isfinite(value)]
    if not bad:
        return
    tensors = [name for name, value in zip(names, squares, strict=True) if not np.isfinite(value)]
    more = f" and {len(tensors) - 3} more" if len(tensors) > 3 else ""
    of = f" (gradient of {', '.join(tensors[:3])}{more})" if tensors else ""
    raise TrainingFailed(
        f"{' and '.join(bad)}{of} not finite at step {step}; lower --optim.learning_rate or continue from an "
        f"older checkpoint. Nothing of this step was saved"
    )


class CollapseWarning(Callback):
    """Warns once when hinge triplets show that all distances of the batches are equal."""

    def on_begin(self, run: Run) -> None:
        """Find the margin, which is the loss where all distances are equal."""
        config = run.config
        options = dict(config.loss.options)
        hinge = config.loss.name == "triplet" and options.get("formula", "hinge") in (
            "hinge",
            "squared_hinge",
        )
        self._margin = float(options.get("margin", 0.2)) if hinge else 0.0
        self._steps = 0

    def on_step(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """Count the steps whose loss is the margin."""
        at_margin = abs(metrics["loss"] - self._margin) < 0.02 * self._margin
        self._steps = self._steps + 1 if at_margin and metrics["active_share"] > 0.999 else 0
        if self._steps == PATIENCE:
            log.warning(
                "collapse: for %d steps up to %d every triplet was active and the loss at the margin %g, as where all "
                "embeddings are equal; lower --optim.learning_rate, or start with --loss.options mining semi_hard",
                PATIENCE,
                step,
                self._margin,
            )


def warn_collapsed(embeddings: np.ndarray, what: str) -> bool:
    """Whether embeddings [N, D] lie in one point up to SPREAD of their length; warns if so."""
    x = np.asarray(embeddings, np.float64)
    spread = np.sqrt(np.mean(np.sum((x - x.mean(0, keepdims=True)) ** 2, axis=1)))
    length = np.sqrt(np.mean(np.sum(x**2, axis=1)))
    collapsed = bool(spread <= SPREAD * length)
    if collapsed:
        log.warning(
            "collapse: the embeddings of all %d %s are equal; no metric of them means much", len(x), what
        )
    return collapsed


@contextmanager
def explain_memory(config: Config, devices: int) -> Iterator[None]:
    """Turn the device's running out of memory into a TrainingFailed that says what the batch is and what helps."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(
            sign in text for sign in ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
        ):
            raise
        data = config.data
        batch = data.classes_per_batch * data.images_per_class // devices
        raise TrainingFailed(
            f"out of memory with {batch} images per device at {data.size} x {data.size} pixels "
            f"({config.model.backbone}, {config.model.dtype}); what helps: --train.chunk {max(1, batch // 4)}, "
            f"--model.remat, --model.dtype bfloat16, fewer --data.classes_per_batch, a smaller --data.size or "
            f"--eval.batch_size ({config.eval.batch_size}), and --data.input tf_data where the images themselves do "
            f"not fit ({text.splitlines()[0][:160] if text else 'MemoryError'})"
        ) from error
