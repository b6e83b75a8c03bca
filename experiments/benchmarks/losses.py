"""Compares losses, value and gradient, with the same losses of pytorch-metric-learning in one process.

    python -m experiments.benchmarks.losses
    python -m experiments.benchmarks.losses --only arcface circle --batches 1024

Both are called in alternation on unit vectors of `--width` dimensions, `--per_class` of each class; losses that learn
proxies have `--classes` of them, and their gradient is computed as well. The ratio is the median over the rounds. Peak
memory is that of a call beyond what the process held before it; a peer that needs more than `--memory` GiB is not
measured, and neither is one after a single call if that takes over `--patience` seconds. Needs the extra `peers`.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
import tyro

from experiments.benchmarks.timing import Row, in_turn, memory, ratio, reset_peak, seconds, table, write
from jaxml import losses

PEERS = {
    "contrastive": "ContrastiveLoss",
    "multi_similarity": "MultiSimilarityLoss",
    "lifted": "LiftedStructureLoss",
    "generalized_lifted": "GeneralizedLiftedStructureLoss",
    "nt_xent": "NTXentLoss",
    "supervised_contrastive": "SupConLoss",
    "nca": "NCALoss",
    "margin": "MarginLoss",
    "circle": "CircleLoss",
    "tuplet_margin": "TupletMarginLoss",
    "angular": "AngularLoss",
    "intra_pair_variance": "IntraPairVarianceLoss",
    "histogram": "HistogramLoss",
    "ranked_list": "RankedListLoss",
    "smooth_ap": "SmoothAPLoss",
    "fast_ap": "FastAPLoss",
    "proxy_nca": "ProxyNCALoss",
    "proxy_anchor": "ProxyAnchorLoss",
    "soft_triple": "SoftTripleLoss",
    "normalized_softmax": "NormalizedSoftmaxLoss",
    "cosface": "CosFaceLoss",
    "arcface": "ArcFaceLoss",
    "subcenter_arcface": "SubCenterArcFaceLoss",
    "sphereface": "SphereFaceLoss",
}
"""Losses, and their classes in pytorch-metric-learning."""
OPTIONS = {"ranked_list": {"margin": 0.4, "Tn": 10}, "margin": {"nu": 0}}
"""What a peer's class must be told."""


@dataclass
class Arguments:
    """What to measure."""

    only: tuple[str, ...] = tuple(PEERS)
    """Names of losses."""
    batches: tuple[int, ...] = (1024, 4096)
    """Embeddings in a batch."""
    per_class: int = 4
    """Embeddings of a class."""
    width: int = 128
    """Dimensions of an embedding."""
    classes: int = 10_000
    """Classes of the losses that learn proxies."""
    seconds: float = 5.0
    """Seconds for each loss and batch."""
    patience: float = 30.0
    """Seconds of a call after which a loss is not called again."""
    memory: float = 16.0
    """GiB of address space of the process."""
    out: Path = Path("benchmarks")
    """Folder for losses.json and .md."""


def ours(name: str, x: np.ndarray, y: np.ndarray, classes: int) -> Callable[[], object]:
    """A call of our loss that computes its value and all gradients."""
    parameters = ()
    if name in losses.PARAMETERS:
        parameters = (losses.PARAMETERS[name](jax.random.key(0), classes, x.shape[1]),)

    def loss(arrays: tuple[Any, ...], labels: Any) -> Any:
        return losses.LOSSES[name](arrays[0], labels, *arrays[1:])

    arrays, labels = jax.device_put(((x, *parameters), y))
    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(arrays, labels).compile()
    return lambda: jax.block_until_ready(compiled(arrays, labels))


def peer(name: str, x: np.ndarray, y: np.ndarray, classes: int) -> Callable[[], object]:
    """The same of pytorch-metric-learning."""
    import torch
    from pytorch_metric_learning import losses as theirs

    options: dict[str, Any] = dict(OPTIONS.get(name, {}))
    if name in losses.PARAMETERS and name != "margin":
        options |= {"num_classes": classes, "embedding_size": x.shape[1]}
    module = getattr(theirs, PEERS[name])(**options)
    leaf, labels = torch.tensor(x, requires_grad=True), torch.tensor(y).long()

    def call() -> None:
        leaf.grad = None
        module.zero_grad()
        module(leaf, labels).backward()

    return call


def measure(name: str, size: int, arguments: Arguments) -> Row:
    """A row of the table."""
    rng = np.random.default_rng(0)
    classes = max(arguments.classes if name in losses.PARAMETERS else 0, size // arguments.per_class)
    y = rng.permutation(np.arange(size) % (size // arguments.per_class)).astype(np.int32)
    x = rng.normal(size=(classes, arguments.width))[y] + rng.normal(size=(size, arguments.width))
    x = np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)
    row: Row = {"loss": name, "B": size, "D": arguments.width}
    if name in losses.PARAMETERS:
        row["classes"] = classes
    calls: dict[str, Callable[[], object]] = {"jaxml": ours(name, x, y, classes)}
    row["jaxml MiB"] = _peak(calls["jaxml"])
    try:
        other = peer(name, x, y, classes)
        row["peer MiB"] = _peak(other)
        if seconds(other) < arguments.patience:
            calls["peer"] = other
        else:
            row["peer ms"] = f"over {1000 * arguments.patience:,.0f}"
    except (RuntimeError, MemoryError):  # PyTorch's allocator
        row["peer ms"] = f"over {arguments.memory:.0f} GiB"
    times = in_turn(calls, arguments.seconds)
    row["jaxml ms"] = f"{1000 * median(times['jaxml']):.1f}"
    if "peer" in calls:
        row["peer ms"] = f"{1000 * median(times['peer']):.1f}"
        row["peer / jaxml"] = f"{ratio(times, 'jaxml', 'peer'):.1f}"
    return row


def _peak(call: Callable[[], object]) -> str:
    """Memory in MiB of a second call beyond what was held before."""
    call()
    before = reset_peak()
    call()
    return "" if before is None else f"{memory('VmHWM') - before:,.0f}"


def main(arguments: Arguments) -> None:
    limit = int(arguments.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    rows = []
    for size in arguments.batches:
        for name in arguments.only:
            rows.append(measure(name, size, arguments))
            print(table(rows[-1:]), flush=True)
    write(arguments.out, "losses", rows, f"# Losses\n\n{table(rows)}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__, use_underscores=True))
