"""Data sets, one a file: each returns an Index of its images."""
