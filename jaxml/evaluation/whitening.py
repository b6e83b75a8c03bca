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
    x = arguments.matrix("embeddings", embeddings)
    other = arguments.matrix("learned_from", learned_from)
    if x.shape[1] != other.shape[1]:
        raise ValueError(f"learned_from must be as wide as embeddings ({x.shape[1]}), got {other.shape[1]}")
    arguments.whole("size", size, 1, min(other.shape))
    mean, axes, variances = principal_axes(other, size)
    scales = np.maximum(np.sqrt(variances), np.finfo(np.float64).eps)
    projected = (x.astype(np.float64) - mean) @ axes.T / scales
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    return (projected / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def principal_axes(x: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [D], first principal axes [size, D] and variances [size] along them of x float [M, D], all float64."""
    from sklearn.decomposition import PCA

    # The full decomposition: the others are approximate, or lose small variances, by which whitening divides.
    pca = PCA(size, svd_solver="full")
    # Where all are equal it warns of the shares of the variance, which nobody asked for.
    with np.errstate(invalid="ignore"):
        pca.fit(x.astype(np.float64))
    return pca.mean_, pca.components_, pca.explained_variance_
