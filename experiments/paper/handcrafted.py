"""Hand-crafted features: histograms of oriented gradients and of colours, by scikit-image (extra `handcrafted`)."""

from __future__ import annotations

import numpy as np

SIDE = 64  # images are reduced to so many pixels a side
BINS = (8, 4, 4)  # bins of hue, saturation and value


def features(images: np.ndarray) -> np.ndarray:
    """Features of images, uint8 [n, S, S, 3] -> float32 [n, 1764 + 128]: gradients and colours, each of unit length.

    Gradients: 9 orientations in cells of 8 x 8 of 64 x 64 pixels, normalised in blocks of 2 x 2 cells (Dalal & Triggs
    2005). Colours: square roots of a histogram of hue, saturation and value, whose products are Bhattacharyya's.

    Raises ValueError where scikit-image is not installed.
    """
    try:
        from skimage.color import rgb2hsv
        from skimage.feature import hog
    except ImportError as error:
        raise ValueError(
            "hand-crafted features need scikit-image: `pip install jaxml[handcrafted]`"
        ) from error
    from PIL import Image

    found = []
    for pixels in images:
        small = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX))
        gradients = hog(small, pixels_per_cell=(8, 8), cells_per_block=(2, 2), channel_axis=2)
        hsv = rgb2hsv(small).reshape(-1, 3)
        counts, _ = np.histogramdd(hsv, BINS, [(0, 1)] * 3)
        colours = np.sqrt(counts.ravel() / len(hsv))
        found.append(np.concatenate([gradients / max(np.linalg.norm(gradients), 1e-12), colours]))
    return np.asarray(found, np.float32)
