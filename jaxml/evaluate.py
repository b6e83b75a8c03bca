"""K-means and the scores of its clusters, and PCA: functions of `jaxml.evaluation`."""

from jaxml.evaluation.clustering import (
    cluster,
    evaluate,
    label_seeded_clusters,
    validate,
)
from jaxml.evaluation.whitening import whiten

__all__ = ["cluster", "evaluate", "label_seeded_clusters", "validate", "whiten"]
