"""A trace of a few training steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

WARM_UP = 2
"""Calls before the trace: the first compiles, the second may still wait for the first batches."""


def traced(advance: Callable[[Any], Any], calls: int, folder: Path) -> Callable[[Any], Any]:
    """`advance`, with `calls` of its calls after the first `WARM_UP` recorded into `folder` by jax.profiler.

    The trace opens in TensorBoard's profiler, and its `.trace.json.gz` in Perfetto. A run that ends before the last
    of these calls leaves none.
    """
    turns = itertools.count()

    def advance_traced(state: Any) -> Any:
        turn = next(turns)
        if turn == WARM_UP:
            jax.block_until_ready(state)  # what was queued before is not part of it
            jax.profiler.start_trace(folder)
        with jax.profiler.StepTraceAnnotation("train", step_num=turn):
            result = advance(state)
        if turn == WARM_UP + calls - 1:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
        return result

    return advance_traced
