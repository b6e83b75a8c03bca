"""Pictures of classes that a small network tells apart at once."""

import numpy as np
from PIL import Image


def draw(rng, classes, each):
    """Pictures uint8 [classes * each, 24, 24, 3] of classes that differ in their colours."""
    base = rng.uniform(0, 255, (classes, 1, 4, 4, 3)).repeat(6, 2).repeat(6, 3)
    noisy = base + rng.normal(0, 25, (classes, each, 24, 24, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8).reshape(-1, 24, 24, 3)


def write_classes(path):
    """Write ten classes of six pictures into a new folder, and return their pixels."""
    pixels = draw(np.random.default_rng(0), 10, 6)
    for i, image in enumerate(pixels):
        file = path / f"class{i // 6}/{i % 6}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return pixels
