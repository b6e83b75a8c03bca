"""Losses that classify images by their cosine similarity to learned proxies, with a margin for the own class."""

from __future__ import annotations

import numpy as np
from jax import Array

from jaxml.losses.kernels import checks
from jaxml.losses.kernels.classes import classify, lowered, multiplied, no_margin, widened
from jaxml.losses.kernels.divided_classes import DividedClasses
from jaxml.losses.kernels.types import Aux
from jaxml.losses.proxies import centres as _centres


def sub_centres(key: Array, num_classes: int, feature_size: int, *, num_centres: int = 3) -> Array:
    """Draw initial centres of `subcenter_arcface`, float32 [classes, centres, D]: random directions."""
    return _centres(key, num_classes, feature_size, num_centres=num_centres)


def normalized_softmax(
    embeddings: Array,
    labels: Array,
    proxies: Array,
    *,
    scale: float | Array = 20.0,
    class_weights: Array | None = None,
    block_size: int | None = None,
    axis_name: str | None = None,
    divided: DividedClasses | None = None,
) -> tuple[Array, Aux]:
    """Classify by a softmax over the cosine similarities s to the proxies.

    -log(e^{scale s_y} / sum_c e^{scale s_c}).

    Reduction: mean over images, each multiplied by the weight of its class.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], class indices.
        proxies: float [classes, D].
        scale: above 0, one by the temperature, which is 0.05 in the paper.
        class_weights: float [classes], not negative; 1 each if None.
        block_size: anchors at a time, or classes where these are divided; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        divided: how classes are divided over these devices, which hold a share of them; all hold all classes if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` images (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Zhai & Wu 2019, Classification is a Strong Baseline for Deep Metric Learning, section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> proxies = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> loss, aux = losses.normalized_softmax(embeddings, labels, proxies, scale=4.0)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} images")
        0.103, 4 of 4 images
    """
    args = embeddings, labels, "proxies", proxies, 2, block_size, axis_name
    return classify(no_margin, args, divided, scale, 0.0, class_weights)


def cosface(
    embeddings: Array,
    labels: Array,
    proxies: Array,
    *,
    scale: float | Array = 64.0,
    margin: float | Array = 0.35,
    class_weights: Array | None = None,
    block_size: int | None = None,
    axis_name: str | None = None,
    divided: DividedClasses | None = None,
) -> tuple[Array, Aux]:
    """Classify by cosine similarities s to the proxies, of which the own one is lowered by a margin.

    -log(e^{scale (s_y - margin)} / (e^{scale (s_y - margin)} + sum_{c != y} e^{scale s_c})).

    Reduction: mean over images, each multiplied by the weight of its class.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], class indices.
        proxies: float [classes, D].
        scale: above 0.
        margin: at least 0, of the similarity.
        class_weights: float [classes], not negative; 1 each if None.
        block_size: anchors at a time, or classes where these are divided; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        divided: how classes are divided over these devices, which hold a share of them; all hold all classes if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` images (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Wang et al. 2018, CosFace: Large Margin Cosine Loss for Deep Face Recognition, equation 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> proxies = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> loss, aux = losses.cosface(embeddings, labels, proxies, scale=4.0)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} images")
        0.299, 4 of 4 images
    """
    checks.number("margin", margin, minimum=0.0)
    args = embeddings, labels, "proxies", proxies, 2, block_size, axis_name
    return classify(lowered, args, divided, scale, margin, class_weights)


def arcface(
    embeddings: Array,
    labels: Array,
    proxies: Array,
    *,
    scale: float | Array = 64.0,
    margin: float | Array = 0.5,
    class_weights: Array | None = None,
    block_size: int | None = None,
    axis_name: str | None = None,
    divided: DividedClasses | None = None,
) -> tuple[Array, Aux]:
    """Classify by cosines of the angles t to the proxies, of which the own one is widened by a margin.

    -log(e^{scale f(t_y)} / (e^{scale f(t_y)} + sum_{c != y} e^{scale cos t_c})), f(t) = cos(t + margin) up to
    t = pi - margin, and cos t - margin sin(margin) beyond, where the first would rise again.

    Reduction: mean over images, each multiplied by the weight of its class.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], class indices.
        proxies: float [classes, D].
        scale: above 0.
        margin: 0 to pi, of the angle in radians.
        class_weights: float [classes], not negative; 1 each if None.
        block_size: anchors at a time, or classes where these are divided; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        divided: how classes are divided over these devices, which hold a share of them; all hold all classes if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` images (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Deng et al. 2019, ArcFace: Additive Angular Margin Loss for Deep Face Recognition, equation 3; the part
    beyond pi - margin is from the authors' code.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> proxies = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> loss, aux = losses.arcface(embeddings, labels, proxies, scale=4.0)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} images")
        0.302, 4 of 4 images
    """
    checks.number("margin", margin, minimum=0.0, maximum=np.pi)
    args = embeddings, labels, "proxies", proxies, 2, block_size, axis_name
    return classify(widened, args, divided, scale, margin, class_weights)


def subcenter_arcface(
    embeddings: Array,
    labels: Array,
    centres: Array,
    *,
    scale: float | Array = 64.0,
    margin: float | Array = 0.5,
    class_weights: Array | None = None,
    block_size: int | None = None,
    axis_name: str | None = None,
    divided: DividedClasses | None = None,
) -> tuple[Array, Aux]:
    """Classify as `arcface` does, by the nearest of several centres of each class.

    The cosine of the angle t_c is max_k s_ck, over the cosine similarities s to the centres k of the class c.

    -log(e^{scale f(t_y)} / (e^{scale f(t_y)} + sum_{c != y} e^{scale cos t_c})), f as in `arcface`.

    Reduction: mean over images, each multiplied by the weight of its class.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], class indices.
        centres: float [classes, K, D].
        scale: above 0.
        margin: 0 to pi, of the angle in radians.
        class_weights: float [classes], not negative; 1 each if None.
        block_size: anchors at a time, or classes where these are divided; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        divided: how classes are divided over these devices, which hold a share of them; all hold all classes if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` images (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Deng et al. 2020, Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web Faces, section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> centres = jnp.array([[[0.0, 1.0], [0.6, 0.8]], [[1.0, 0.0], [0.8, -0.6]]])
        >>> loss, aux = losses.subcenter_arcface(embeddings, labels, centres, scale=4.0)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} images")
        0.157, 4 of 4 images
    """
    checks.number("margin", margin, minimum=0.0, maximum=np.pi)
    args = embeddings, labels, "centres", centres, 3, block_size, axis_name
    return classify(widened, args, divided, scale, margin, class_weights)


def sphereface(
    embeddings: Array,
    labels: Array,
    proxies: Array,
    *,
    scale: float | Array = 1.0,
    margin: float | Array = 4.0,
    class_weights: Array | None = None,
    block_size: int | None = None,
    axis_name: str | None = None,
    divided: DividedClasses | None = None,
) -> tuple[Array, Aux]:
    """Classify by cosines of the angles t to the proxies, of which the own one is multiplied by a margin.

    -log(e^{scale |x| f(t_y)} / (e^{scale |x| f(t_y)} + sum_{c != y} e^{scale |x| cos t_c})),
    f(t) = (-1)^k cos(margin t) - 2 k for t in [k pi / margin, (k + 1) pi / margin].

    Reduction: mean over images, each multiplied by the weight of its class.

    Args:
        embeddings: float [B, D], of any length |x|; computed in float32.
        labels: int [B], class indices.
        proxies: float [classes, D].
        scale: above 0; 1 in the paper, whose embeddings are not normalised.
        margin: at least 1, a whole number in the paper, by which the angle is multiplied.
        class_weights: float [classes], not negative; 1 each if None.
        block_size: anchors at a time, or classes where these are divided; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        divided: how classes are divided over these devices, which hold a share of them; all hold all classes if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` images (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Liu et al. 2017, SphereFace: Deep Hypersphere Embedding for Face Recognition, section 3.2.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 4.0], [2.4, 3.2], [4.0, 0.0], [3.2, -2.4]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> proxies = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> loss, aux = losses.sphereface(embeddings, labels, proxies, margin=2.0)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} images")
        0.398, 4 of 4 images
    """
    checks.number("margin", margin, minimum=1.0)
    args = embeddings, labels, "proxies", proxies, 2, block_size, axis_name
    return classify(multiplied, args, divided, scale, margin, class_weights, by_length=True)
