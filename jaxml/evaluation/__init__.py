"""Clustering, nearest neighbours, and the metrics that judge both."""
