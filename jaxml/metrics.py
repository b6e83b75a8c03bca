"""Metrics of clusters and nearest neighbours: all names of `jaxml.evaluation.metrics`."""

from jaxml.evaluation import metrics as _metrics
from jaxml.evaluation.metrics import *  # noqa: F403

__all__ = _metrics.__all__
