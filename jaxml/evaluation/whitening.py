"""PCA with whitening: the baseline for embeddings of fewer dimensions that nobody trained."""

from __future__ import annotations

import numpy as np

from jaxml import arguments


def whiten(embeddings: np.ndarray, learned_from: np.ndarray, size: int) -> np.ndarray:
    """Project embeddings on the main axes of others, scaled to unit variance there, and normalise them.

    With the mean m, the first `size` principal axes v_k and the variances s_k^2 of `learned_from`,
    y_k = v_k . (x - m) / s_k, divided by |y|.

    Args:
        embeddings: float [N, D].
        learned_from: float [M, D] of other images, such as those of the training classes.
        size: dimensions that are kept: 1 to D, and at most M.

    Returns:
        float32 [N, size] of unit length.

    Raises:
        ValueError: embeddings are no matrices of finite numbers and of one width, or there are fewer than `size` axes.

    Source: Jegou & Chum 2012, Negative Evidences and Co-occurrences in Image Retrieval: the Benefit of PCA and
    Whitening; computed by scikit-learn's PCA.

    Example:
        >>> train = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.1], [0.0, 8.0, 0.0], [2.0, 8.0, -0.1]])
        >>> abs(whiten(np.array([[2.0, 4.0, 0.0], [1.0, 8.0, 0.0]]), train, size=2)).round(3).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    from sklearn.decomposition import PCA

    x = arguments.matrix("embeddings", embeddings)
    other = arguments.matrix("learned_from", learned_from)
    if x.shape[1] != other.shape[1]:
        raise ValueError(f"learned_from must be as wide as embeddings ({x.shape[1]}), got {other.shape[1]}")
    arguments.whole("size", size, 1, min(other.shape))
    # The full decomposition: the others are approximate, or lose small variances, by which whitening divides.
    pca = PCA(size, whiten=True, svd_solver="full")
    with np.errstate(
        invalid="ignore"
    ):  # where all are equal, for the shares of the variance, which nobody asked for
        pca.fit(other.astype(np.float64))
    projected = pca.transform(x.astype(np.float64))
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    return (projected / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
