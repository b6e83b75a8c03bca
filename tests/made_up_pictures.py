"""Pictures of classes that a small network tells apart at once."""

import numpy as np


def draw(rng, classes, each):
    """Pictures uint8 [classes * each, 24, 24, 3] of classes that differ in their colours."""
    base = rng.uniform(0, 255, (classes, 1, 4, 4, 3)).repeat(6, 2).repeat(6, 3)
    noisy = base + rng.normal(0, 25, (classes, each, 24, 24, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8).reshape(-1, 24, 24, 3)
