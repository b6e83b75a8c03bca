"""Self-contained HTML pages: the report of a run, and the clusters of unlabelled pictures."""
