"""Runs: the training step, the loop around it, checkpoints, and what a run keeps in its directory."""
