"""Pretrained weights: readers of weight files, downloads from the hub, and import into a network's variables."""
