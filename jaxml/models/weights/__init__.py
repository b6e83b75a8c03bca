"""Pretrained weights: readers of foreign files, the hub, and the import into a network's variables."""
