"""Losses that pick a positive out of an anchor's candidates by a softmax over similarities."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxml.distances import dot, largest, pairwise
from jaxml.losses import blocks, checks, rows

Array = jax.Array
Aux = dict[str, Array]


def n_pairs(
    embeddings: Array,
    labels: Array,
    *,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Pick each positive out of itself and all negatives by inner products.

    log(1 + sum_n e^{x_a . x_n - x_a . x_p}).

    Reduction: mean over pairs (a, p) with at least one negative; 0 if there is none.

    Args:
        embeddings: float [B, D], not normalised; computed in float32.
        labels: int [B].
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` pairs (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Sohn 2016, Improved Deep Metric Learning with Multi-class N-pair Loss Objective, equation 6, where a
    batch holds one pair per class and only its second image serves as negative: pass the first images as
    embeddings and the second as references for exactly that. Its norm penalty is left to the caller.
    """
    x, y, r = checks.batch(embeddings, labels, references, reference_labels, reference_mask, axis_name)
    checks.block_size(block_size)
    return _pick(x, y, r, 1.0, False, block_size, axis_name)


def nt_xent(
    embeddings: Array,
    labels: Array,
    *,
    temperature: float | Array = 0.1,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Pick each positive out of itself and all negatives by cosine similarity s.

    -log(e^{s_ap / temperature} / (e^{s_ap / temperature} + sum_n e^{s_an / temperature})).

    Reduction: mean over pairs (a, p) with at least one negative; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B].
        temperature: above 0.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` pairs (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Chen et al. 2020, A Simple Framework for Contrastive Learning (SimCLR), equation 1, where an anchor has
    one positive; with several, the others are left out of the sum, as in pytorch-metric-learning.
    """
    x, y, r = checks.batch(embeddings, labels, references, reference_labels, reference_mask, axis_name)
    checks.number("temperature", temperature, above=0.0)
    checks.block_size(block_size)
    return _pick(x, y, r, temperature, True, block_size, axis_name)


@partial(jax.jit, static_argnums=(4, 5, 6))
def _pick(
    x: Array,
    labels: Array,
    references: blocks.References | None,
    temperature: Array,
    cosine: bool,
    block_size: int | None,
    axis_name: str | None,
) -> tuple[Array, Aux]:
    batch = blocks.batch(x, labels, references, axis_name)
    bound = largest(batch.x, batch.found, "cosine" if cosine else "dot") / temperature
    function = partial(_pick_rows, cosine)
    value, aux = blocks.sum_rows(function, batch, temperature, bound=bound, block_size=block_size)
    return blocks.ratio(value, aux["valid"]), {**aux, "active": aux["valid"]}


def _pick_rows(
    cosine: bool, x: Array, found: Array, temperature: Any, block: blocks.Block
) -> tuple[Array, Aux]:
    s = (1.0 - pairwise(x, found, "cosine") if cosine else dot(x, found)) / temperature
    positive, negative = block.masks
    valid = positive & jnp.any(negative, axis=1)[:, None]
    rest = rows.log_sum_exp(s, negative)[:, None]
    values = jax.nn.softplus(jnp.where(valid, rest - s, 0.0))
    return jnp.sum(jnp.where(valid, values, 0.0)), {"valid": blocks.count(valid)}


def supervised_contrastive(
    embeddings: Array,
    labels: Array,
    *,
    temperature: float | Array = 0.1,
    block_size: int | None = None,
    axis_name: str | None = None,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_mask: Array | None = None,
) -> tuple[Array, Aux]:
    """Give an anchor's positives equal shares of a softmax over all other images, by cosine similarity s.

    -1/|P| sum_p log(e^{s_ap / temperature} / sum_{i != a} e^{s_ai / temperature}), P the positives of a.

    Reduction: mean over anchors with a positive; 0 if there is none.

    Args:
        embeddings: float [B, D]; computed in float32.
        labels: int [B].
        temperature: above 0.
        block_size: anchors at a time; chosen for the device if None.
        axis_name: mapped axis the batch is divided over; gradients are then to be averaged (pmean).
        references: float [M, D], compared with in place of the batch; equal on all devices.
        reference_labels: int [M].
        reference_mask: bool [M], which references are there; all if None.

    Returns:
        float32 loss, and a dict with the float32 numbers of `active` and `valid` anchors (the same).

    Raises:
        ValueError: an argument of wrong shape, type or value, named in the message.

    Source: Khosla et al. 2020, Supervised Contrastive Learning, equation 2 (L_out).
    """
    x, y, r = checks.batch(embeddings, labels, references, reference_labels, reference_mask, axis_name)
    checks.number("temperature", temperature, above=0.0)
    checks.block_size(block_size)
    return _supervised_contrastive(x, y, r, temperature, block_size, axis_name)


@partial(jax.jit, static_argnums=(4, 5))
def _supervised_contrastive(
    x: Array,
    labels: Array,
    references: blocks.References | None,
    temperature: Array,
    block_size: int | None,
    axis_name: str | None,
) -> tuple[Array, Aux]:
    batch = blocks.batch(x, labels, references, axis_name)
    bound = largest(batch.x, batch.found, "cosine") / temperature
    value, aux = blocks.sum_rows(_supervised_rows, batch, temperature, bound=bound, block_size=block_size)
    return blocks.ratio(value, aux["valid"]), {**aux, "active": aux["valid"]}


def _supervised_rows(x: Array, found: Array, temperature: Any, block: blocks.Block) -> tuple[Array, Aux]:
    s = (1.0 - pairwise(x, found, "cosine")) / temperature
    positive, negative = block.masks
    number = jnp.sum(positive, axis=1).astype(jnp.float32)
    mean = jnp.sum(jnp.where(positive, s, 0.0), axis=1) / jnp.maximum(number, 1.0)
    values = rows.log_sum_exp(s, positive | negative) - mean
    return jnp.sum(jnp.where(number > 0, values, 0.0)), {"valid": blocks.count(number > 0)}
