"""K-means and the scores of its clusters, PCA and re-ranking: functions of `jaxml.evaluation`."""

from jaxml.evaluation.clustering import (
    cluster,
    evaluate,
    label_seeded_clusters,
    validate,
)
from jaxml.evaluation.reranking import reranked
from jaxml.evaluation.whitening import whiten

__all__ = ["cluster", "evaluate", "label_seeded_clusters", "reranked", "validate", "whiten"]
