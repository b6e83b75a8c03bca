"""What a training step will need on an accelerator, found by its compiler alone: see `experiments/plan.py`."""
