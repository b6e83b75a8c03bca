"""K-means and the scores of its clusters: functions of `jaxml.evaluation.clustering`."""

from jaxml.evaluation.clustering import (
    cluster,
    evaluate,
    label_seeded_clusters,
    validate,
)

__all__ = ["cluster", "evaluate", "label_seeded_clusters", "validate"]
