"""Triplet losses over the batch, for each formula and way of mining."""

from __future__ import annotations

from dataclasses import replace

import jax
from jax import Array

from jaxml.distances import DISTANCES
from jaxml.losses.kernels import checks, sorted_sweep
from jaxml.losses.kernels.blocks import Block, Terms
from jaxml.losses.kernels.comparison import compare, mean
from jaxml.losses.kernels.formulas import FORMULAS, Formula, Options, swapped
from jaxml.losses.kernels.measures import MEASURES, square_of
from jaxml.losses.kernels.mining import MINING, Mining
from jaxml.losses.kernels.relations import Masks, in_order
from jaxml.losses.kernels.types import Aux

REDUCTIONS = {"active": "active", "all": "valid"}
"""What `mean` divides by, for each reduction."""


def triplet(
    embeddings: Array,
    labels: Array | Masks,
    *,
    formula: str = "hinge",
    mining: str = "all",
    margin: float | Array = 0.2,
    distance: str = "euclidean",
    swap: bool = False,
    reduction: str = "active",
    quantile: float | Array = 0.6,
    cutoff: float | Array = 0.5,
    upper_cutoff: float | Array = 1.4,
    key: Array | None = None,
    block_size: int | None = None,
    axis_name: str | None = None,
    ring: bool = False,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Pull an anchor a closer to its positives p than to its negatives n.

    Formulas, of distances d:
        hinge: max(0, d_ap - d_an + margin)
        squared_hinge: max(0, d_ap^2 - d_an^2 + margin)
        soft: d_ap + log(e^{margin - d_an} + e^{margin - d_pn})
        ratio: 2 s^2, ratio_original: 2 s, with s = e^{d_ap} / (e^{d_ap} + e^{d_an}); no margin
        softplus: log(1 + e^{d_ap - d_an}); no margin. softplus_margin: log(1 + e^{d_ap - d_an + margin})
        With `swap` min(d_an, d_pn) stands for d_an in the formula, though not in the mining.
    Mining, which triplets (a, p, n) count (for squared_hinge, d stands for its square here too):
        all: every p, with every n
        semi_hard: every p, with every n for which d_ap < d_an < d_ap + margin, whatever the formula
        original_semi_hard: every p, with every n for which d_an < d_ap
        nearest_semi_hard: every p, with the n of least d_an above d_ap, or of greatest d_an if none is above
        hardest: every p, with the n of least d_an
        batch_hard: the p of greatest d_ap, with the n of least d_an
        local: every p within the `quantile` of the anchor's d_ap, with every n
        local_class: every p within the `quantile` of all d_ap of the class, with every n
        easy_positive: the p of least d_ap, with every n
        distance_weighted: every p, with one n drawn by the distance of the unit vectors (needs `key`)

    Reduction: mean over active triplets: those above 0 for the hinges, all mined ones for the other formulas and for
    `reduction` all; 0 if there is none. Time O(B M K D) for classes of K images, memory O(block_size x M): no array of
    size B^3. local_class finds its limit by bisection, and takes ten times as long as the others on CPU.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B], or Masks in their place.
        formula: one of the formulas above.
        mining: one of the ways of mining above.
        margin: at least 0, in units of the distance (of its square for squared_hinge).
        distance: euclidean, squared, cosine, snr, manhattan or dot.
        swap: compare the negative with the anchor or the positive, whichever is nearer to it; not for soft.
        reduction: active, or all for the mean over all mined triplets.
        quantile: share of positives, from 0 to 1, that local and local_class keep.
        cutoff: distance below which distance_weighted treats all negatives alike.
        upper_cutoff: distance from which distance_weighted draws no negatives.
        key: random key of distance_weighted.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        ring: pass the embeddings round the devices that the batch is divided over, where gathering all of them would
            take too much memory: each of n devices holds O(B D / n) at a time. The result is the same, and NaN where a
            class has more than B / n + 1 images. Only where no negative is chosen singly, for formulas other than
            soft and distances other than snr, manhattan and dot, and without swap, masks, weights and references.
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` (mined) triplets.

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Schroff et al. 2015, FaceNet (squared_hinge, semi_hard); Hermans et al. 2017, In Defense of the Triplet Loss
    (batch_hard, softplus, mean over the active); Hoffer & Ailon 2015 (ratio); Wu et al. 2017 (distance_weighted); Xuan
    et al. 2020 (easy_positive); Balntas et al. 2016, section 3.3 (swap); Shah 2017 (soft, ratio_original, local,
    original_semi_hard). softplus_margin is from pytorch-metric-learning; nearest_semi_hard, FaceNet's with one
    negative, is from TensorFlow Addons.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxml import losses
        >>> embeddings = jnp.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, -0.6]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> loss, aux = losses.triplet(embeddings, labels, margin=0.5)
        >>> print(f"{loss:.3f}, {aux['active']:.0f} of {aux['valid']:.0f} triplets")
        0.238, 2 of 8 triplets
    """
    batch = compare(
        embeddings, labels, references, reference_labels, reference_mask, block_size, axis_name, masks=True
    )
    checks.choice("formula", formula, FORMULAS)
    checks.choice("mining", mining, MINING)
    checks.choice("distance", distance, DISTANCES)
    checks.choice("swap", swap, (False, True))
    checks.choice("ring", ring, (False, True))
    checks.choice("reduction", reduction, REDUCTIONS)
    checks.number("margin", margin, minimum=0.0)
    checks.number("quantile", quantile, minimum=0.0, maximum=1.0)
    checks.number("cutoff", cutoff, above=0.0)
    checks.number("upper_cutoff", upper_cutoff, above=0.0)
    chosen_formula, chosen_mining = FORMULAS[formula], MINING[mining]
    if swap:
        if chosen_formula.of_three:
            raise ValueError(
                f"swap must be False for formula {formula}, which has both distances to the negative"
            )
        chosen_formula = swapped(chosen_formula)
    if isinstance(labels, Masks) and chosen_mining.positives.prepare is not None:
        raise ValueError(
            f"mining must not be {mining} where masks take the place of labels: they have no classes"
        )
    if chosen_mining.negatives.drawn and key is None:
        raise ValueError(f"key must be given (jax.random.key) for mining {mining}")
    measure = square_of(distance) if chosen_formula.squared else distance
    if measure not in MEASURES:
        raise ValueError(
            f"distance must not be {distance} for formula {formula}: it is no length to be squared"
        )
    sortable = chosen_mining.has_sorted_form and MEASURES[measure].metric is not None and not swap
    if ring and not (
        sortable
        and not chosen_formula.of_three
        and batch.references is None
        and batch.class_weights is None
        and not isinstance(labels, Masks)
    ):
        raise ValueError(
            f"ring must be False for formula {formula}, mining {mining} and distance {distance}, "
            "with swap, with masks or weights of classes, and with references"
        )
    return mean(
        _triplets,
        batch,
        Options(margin, quantile, cutoff, upper_cutoff),
        measure=measure,
        per=REDUCTIONS[reduction],
        key=key if chosen_mining.negatives.drawn else None,
        prepare=chosen_mining.positives.prepare,
        whole=sorted_sweep.terms if sortable else None,
        ring=ring,
        formula=chosen_formula,
        mining=chosen_mining,
    )


def _triplets(block: Block, options: Options, *, formula: Formula, mining: Mining) -> Terms:
    """Terms of the mined triplets of a block of anchors."""
    distances = block.measured
    block = replace(block, anchor_facts=in_order(block.anchor_facts))
    block = mining.positives.of_block(jax.lax.stop_gradient(distances), block, options.quantile)
    return mining.negatives.of_block(formula, distances, block, options)
