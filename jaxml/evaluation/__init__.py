"""Clustering, nearest neighbours, and the metrics that both are judged by."""
