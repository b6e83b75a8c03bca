"""The tables of a report's metrics, beside baselines and what others published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxml.evaluation import metrics
from jaxml.reports import page

Table = tuple[list[str], list[tuple[str, list[str]]]]  # columns, and rows of a name and cells

CLUSTERING = {"nmi": "NMI", "ami": "AMI", "ari": "ARI", "f1": "F1 (pairs)", "purity": "Purity"}
RETRIEVAL = {**{f"recall@{k}": f"R@{k}" for k in metrics.KS}, "r_precision": "R-precision", "map@r": "MAP@R"}
ORIGINAL = {
    "original_nmi": "NMI (uses labels)",
    "original_f1": '"F1", accuracy (uses labels)',
    "recall@1": "R@1",
    "recall@8": "R@8",
}
CUB = ("cub", "caltech_birds2011")
# Shah 2017, CUB-200-2011 classes 101-200, Inception v3, 64 dimensions, by loss and clusters per class.
PUBLISHED = {
    "hinge, 1 cluster": (0.351, 0.174, 0.188, 0.514),
    "hinge, 3 clusters": (0.385, 0.238, 0.200, 0.525),
    "hinge, 3 clusters, local": (0.353, 0.212, 0.176, 0.502),
    "square, 1 cluster": (0.253, 0.119, 0.117, 0.384),
    "square, 3 clusters": (0.284, 0.168, 0.117, 0.384),
    "square, 3 clusters, local": (0.275, 0.164, 0.118, 0.384),
    "soft, 1 cluster": (0.308, 0.147, 0.160, 0.479),
    "soft, 3 clusters": (0.350, 0.214, 0.171, 0.495),
    "soft, 3 clusters, local": (0.353, 0.215, 0.172, 0.501),
}
# State of the art as the poster of Shah 2017 quotes it; for lifted structure's F1, 0.19 to 0.20, the upper end.
PUBLISHED_LABEL_FREE = {
    "published: contrastive pairs": {"nmi": 0.46, "f1": 0.12},
    "published: triplet": {"nmi": 0.50, "f1": 0.16},
    "published: lifted structure": {"nmi": 0.54, "f1": 0.20},
}
OURS = "this run"


def number(values: Mapping[str, float], name: str) -> str:
    """A metric to three digits with its standard deviation, or a dash where it was not measured."""
    if name not in values or np.isnan(values[name]):
        return page.DASH
    deviation = values.get(f"{name}_std")
    return f"{values[name]:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")


def original(runs: Sequence[tuple[str, Mapping[str, float]]]) -> Table:
    """The metrics of Shah 2017 on CUB-200-2011, which use labels, of runs that have them, and what he published."""
    rows = [(name, values) for name, values in runs if "original_nmi" in values]
    published = [
        (f"Shah 2017: {name}", dict(zip(ORIGINAL, values, strict=True))) for name, values in PUBLISHED.items()
    ]
    return table(ORIGINAL, [*rows, *published])


def table(columns: Mapping[str, str], rows: Sequence[tuple[str, Mapping[str, float]]]) -> Table:
    """The metrics named by the keys of `columns`, of each row."""
    return list(columns.values()), [(name, [number(values, key) for key in columns]) for name, values in rows]
