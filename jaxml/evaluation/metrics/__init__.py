"""Metrics: how well clusters and nearest neighbours agree with classes."""

from jaxml.evaluation.metrics.clusters import (
    CLUSTERING,
    ORIGINAL,
    ami,
    ari,
    contingency,
    majority_class,
    nmi,
    original_f1,
    original_nmi,
    pairwise_f1,
    purity,
)
from jaxml.evaluation.metrics.retrieval import (
    KS,
    RETRIEVAL,
    map_at_r,
    precision,
    precision_at_k,
    r_precision,
    recall,
    recall_at_k,
    retrieval,
)

__all__ = [
    "CLUSTERING",
    "KS",
    "ORIGINAL",
    "RETRIEVAL",
    "ami",
    "ari",
    "contingency",
    "majority_class",
    "map_at_r",
    "nmi",
    "original_f1",
    "original_nmi",
    "pairwise_f1",
    "precision",
    "precision_at_k",
    "purity",
    "r_precision",
    "recall",
    "recall_at_k",
    "retrieval",
]
