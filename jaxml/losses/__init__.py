"""Losses: pure functions of embeddings and labels, each of which returns (loss, aux).

The loss is a float32 scalar; aux is a dict of float32 scalars, with at least the counts `active` and `valid`. All are
computed in float32, whatever the type of the embeddings and also where `jax_enable_x64` is set. Losses named in
PARAMETERS take their learnable parameters third: loss(embeddings, labels, parameters, *, ...).

Labels may be of any integer type, on the host or on a device, and no value of them is reserved. (jax.jit itself cuts
NumPy's 64-bit integers to 32 bits unless `jax_enable_x64` is set; give labels that need 64 bits to the loss outside of
it.) NaN or infinity anywhere in embeddings, references or parameters makes loss and gradients NaN, and so do distances
whose squares float32 cannot hold. Losses of cosine similarities scale embeddings to unit length themselves.
"""

from collections.abc import Callable

import jax

from jaxml.losses.angular import angular
from jaxml.losses.circle import circle, tuplet_margin
from jaxml.losses.class_weights import weighted
from jaxml.losses.classification import (
    arcface,
    cosface,
    normalized_softmax,
    sphereface,
    sub_centres,
    subcenter_arcface,
)
from jaxml.losses.combined import multi
from jaxml.losses.distributions import histogram
from jaxml.losses.inputs import input_triplets, triplet_distances
from jaxml.losses.instance import instance
from jaxml.losses.kernels.divided_classes import DividedClasses
from jaxml.losses.kernels.relations import Masks
from jaxml.losses.lifted import generalized_lifted, lifted
from jaxml.losses.listwise import fast_ap, recall_at_k, smooth_ap
from jaxml.losses.margin import margin, margin_beta
from jaxml.losses.memory import Memory, batch_and_memory, cross_batch, memory, push
from jaxml.losses.nested import matryoshka
from jaxml.losses.pair_statistics import intra_pair_variance, threshold_consistent_margin
from jaxml.losses.pairs import contrastive, multi_similarity
from jaxml.losses.proxies import centres, proxies, proxy_anchor, proxy_nca, soft_triple
from jaxml.losses.ranked_list import ranked_list
from jaxml.losses.regularizers import centre_invariance, embedding_norm, zero_mean
from jaxml.losses.soft_margin import dynamic_soft_margin, margin_distribution
from jaxml.losses.softmax import n_pairs, nca, nt_xent, supervised_contrastive
from jaxml.losses.transfer import relaxed_contrastive
from jaxml.losses.triplet import triplet
from jaxml.losses.views import barlow_twins, vicreg
from jaxml.losses.voting import soft_voting

LOSSES: dict[str, Callable[..., tuple[jax.Array, dict[str, jax.Array]]]] = {
    "triplet": triplet,
    "contrastive": contrastive,
    "multi_similarity": multi_similarity,
    "lifted": lifted,
    "generalized_lifted": generalized_lifted,
    "n_pairs": n_pairs,
    "nt_xent": nt_xent,
    "supervised_contrastive": supervised_contrastive,
    "margin": margin,
    "proxy_nca": proxy_nca,
    "proxy_anchor": proxy_anchor,
    "soft_triple": soft_triple,
    "soft_voting": soft_voting,
    "normalized_softmax": normalized_softmax,
    "cosface": cosface,
    "arcface": arcface,
    "subcenter_arcface": subcenter_arcface,
    "sphereface": sphereface,
    "circle": circle,
    "tuplet_margin": tuplet_margin,
    "nca": nca,
    "ranked_list": ranked_list,
    "smooth_ap": smooth_ap,
    "fast_ap": fast_ap,
    "recall_at_k": recall_at_k,
    "angular": angular,
    "intra_pair_variance": intra_pair_variance,
    "histogram": histogram,
    "dynamic_soft_margin": dynamic_soft_margin,
    "threshold_consistent_margin": threshold_consistent_margin,
    "instance": instance,
}
"""Every loss of embeddings and labels by its name, which is also that of `--loss.name`."""

PARAMETERS: dict[str, Callable[..., jax.Array]] = {
    "margin": margin_beta,
    "proxy_nca": proxies,
    "proxy_anchor": proxies,
    "soft_triple": centres,
    "soft_voting": centres,
    "normalized_softmax": proxies,
    "cosface": proxies,
    "arcface": proxies,
    "subcenter_arcface": sub_centres,
    "sphereface": proxies,
}
"""Initial learnable parameters of a loss: init(key, num_classes, feature_size, **options) -> array."""

REGULARIZERS: dict[str, Callable[..., tuple[jax.Array, dict[str, jax.Array]]]] = {
    "embedding_norm": embedding_norm,
    "zero_mean": zero_mean,
    "centre_invariance": centre_invariance,
}
"""All regularisers by name, functions like losses; centre_invariance takes the parameters of a loss third."""

__all__ = [
    "LOSSES",
    "PARAMETERS",
    "REGULARIZERS",
    "DividedClasses",
    "Masks",
    "Memory",
    "angular",
    "arcface",
    "barlow_twins",
    "batch_and_memory",
    "centre_invariance",
    "circle",
    "contrastive",
    "cosface",
    "cross_batch",
    "dynamic_soft_margin",
    "embedding_norm",
    "fast_ap",
    "generalized_lifted",
    "histogram",
    "input_triplets",
    "instance",
    "intra_pair_variance",
    "lifted",
    "margin",
    "margin_distribution",
    "matryoshka",
    "memory",
    "multi",
    "multi_similarity",
    "n_pairs",
    "nca",
    "normalized_softmax",
    "nt_xent",
    "proxy_anchor",
    "proxy_nca",
    "push",
    "ranked_list",
    "recall_at_k",
    "relaxed_contrastive",
    "smooth_ap",
    "soft_triple",
    "soft_voting",
    "sphereface",
    "subcenter_arcface",
    "supervised_contrastive",
    "threshold_consistent_margin",
    "triplet",
    "triplet_distances",
    "tuplet_margin",
    "vicreg",
    "weighted",
    "zero_mean",
]
