"""Triplet losses of other libraries and in plain PyTorch, which mining.py compares with ours."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from experiments.benchmarks.torch_networks import import_torchvision

MARGIN = 0.2


def peers(formula: str, mined: str) -> dict[str, Callable[[Any, Any], Any]]:
    """The same loss in other libraries, as functions of torch tensors; those that are installed."""
    try:
        import torch
    except ImportError:
        return {}
    if formula == "soft":
        return {"straight PyTorch": straight_soft} if mined == "all" else {}
    found: dict[str, Callable[[Any, Any], Any]] = {}
    if formula != "hinge":
        return found
    try:
        from pytorch_metric_learning import distances, miners
        from pytorch_metric_learning.losses import TripletMarginLoss

        distance = distances.LpDistance(normalize_embeddings=False)
        loss = TripletMarginLoss(margin=MARGIN, distance=distance)
        makers = {
            "semi_hard": lambda: miners.TripletMarginMiner(MARGIN, "semihard", distance=distance),
            "original_semi_hard": lambda: miners.TripletMarginMiner(MARGIN, "hard", distance=distance),
            "batch_hard": lambda: miners.BatchHardMiner(distance=distance),
            "easy_positive": lambda: miners.BatchEasyHardMiner("easy", "all", distance=distance),
            "distance_weighted": lambda: miners.DistanceWeightedMiner(),
        }
        if mined == "all":
            found["pytorch-metric-learning"] = loss
        elif mined in makers:
            miner = makers[mined]()
            found["pytorch-metric-learning"] = lambda x, y: loss(x, y, miner(x, y))
    except ImportError:
        pass
    names = {
        "all": ("BatchAllTripletLoss", "batch_all_triplet_loss"),
        "semi_hard": ("BatchSemiHardTripletLoss", "batch_semi_hard_triplet_loss"),
        "batch_hard": ("BatchHardTripletLoss", "batch_hard_triplet_loss"),
    }
    if mined in names:
        try:
            with suppress(ImportError):
                import_torchvision()  # sentence-transformers imports it if it is installed
            from sentence_transformers import losses as sentence_losses

            class_name, method = names[mined]
            kind = getattr(sentence_losses, class_name)
            module = kind.__new__(kind)  # its constructor needs a text model
            torch.nn.Module.__init__(module)
            module.triplet_margin = module.margin = MARGIN  # the losses name the margin differently
            module.distance_metric = sentence_losses.BatchHardTripletLossDistanceFunction.eucledian_distance
            found["sentence-transformers"] = lambda x, y: getattr(module, method)(y, x)
        except ImportError:
            pass
    return found


def straight_soft(x: Any, y: Any) -> Any:
    """d_ap + log(e^{m - d_an} + e^{m - d_pn}), with a row of negatives for each pair of anchor and positive."""
    import torch

    d = torch.cdist(x, x)
    same = y[:, None] == y[None, :]
    a, p = torch.nonzero(same & ~torch.eye(len(y), dtype=torch.bool, device=x.device), as_tuple=True)
    terms = d[a, p][:, None] + torch.logaddexp(MARGIN - d[a], MARGIN - d[p])
    return terms[~same[a]].mean()


def needed(who: str, size: int, per_class: int) -> float:
    """GiB that a peer's arrays take at least: a cube of floats, or lists of triplets."""
    if who == "sentence-transformers":
        return 3 * size**3 * 4 / 2**30
    triplets = size * (per_class - 1) * (size - per_class)
    return triplets * (3 * 8 + 4 * 4) / 2**30
