"""Errors of every loss about invalid arguments; a new loss is covered by being in losses.LOSSES."""

import inspect

import jax
import jax.numpy as jnp
import pytest

from jaxml import losses
from tests.losses.test_contract import NAMES, batch, parameters

BAD = [
    ("labels", lambda x, y: (x, y[:, None])),
    ("labels", lambda x, y: (x, y.astype(jnp.float32))),
    ("labels", lambda x, y: (x, y[:-1])),
    ("embeddings", lambda x, y: (x[0], y)),
    ("embeddings", lambda x, y: (x.astype(jnp.int32), y)),
    ("embeddings", lambda x, y: (x[:0], y[:0])),
]


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments_are_named(name):
    (x, y), p, loss = batch(), parameters(name), losses.LOSSES[name]
    for argument, change in BAD:
        with pytest.raises(ValueError, match=f"^{argument} must"):
            loss(*change(x, y), *p)
        with pytest.raises(ValueError, match=f"^{argument} must"):
            jax.jit(loss)(*change(x, y), *p)
    taken = inspect.signature(loss).parameters
    with pytest.raises(ValueError, match=r"^block_size must be a positive integer"):
        loss(x, y, *p, block_size=0)
    for number in ("margin", "epsilon", "weight", "tau", "nu"):
        if number in taken:
            limits = r"of at least [01]( and of at most [\d.]+)?"  # those of angles have two
            with pytest.raises(ValueError, match=rf"^{number} must be a finite number {limits}, got -0.1"):
                loss(x, y, *p, **{number: -0.1})
    for number in ("temperature", "scale", "alpha", "gamma"):
        if number in taken:
            with pytest.raises(ValueError, match=f"^{number} must be a finite number above 0, got 0"):
                loss(x, y, *p, **{number: 0})
    if "num_bins" in taken:
        for number in (0, 2.5):
            with pytest.raises(
                ValueError, match=f"^num_bins must be a whole number of at least 1, got {number}"
            ):
                loss(x, y, *p, num_bins=number)
    if "quantile" in taken:
        with pytest.raises(ValueError, match=r"^quantile must be a finite number .* of at most 1, got 1.5"):
            loss(x, y, *p, quantile=1.5)
    if "ks" in taken:
        for ks in ((), (0,), (1.5,), 3):
            with pytest.raises(ValueError, match=r"^ks must be (a )?whole numbers? of at least 1, got"):
                loss(x, y, *p, ks=ks)
    for flag in ("one_sided", "own_in_sum", "with_anchor"):
        if flag in taken:
            with pytest.raises(ValueError, match=f"^{flag} must be one of False, True, got 'yes'"):
                loss(x, y, *p, **{flag: "yes"})
    for choice, example in (("formula", "softplus"), ("mining", "distance_weighted"), ("distance", "cosine")):
        if choice in taken:
            with pytest.raises(ValueError, match=f"^{choice} must be one of .*{example}.*'nonsense'"):
                loss(x, y, *p, **{choice: "nonsense"})
    if "references" in taken:
        with pytest.raises(ValueError, match="references and reference_labels"):
            loss(x, y, *p, references=x)
        with pytest.raises(ValueError, match=r"^reference_labels must"):
            loss(x, y, *p, references=x, reference_labels=y[:-1])
        with pytest.raises(ValueError, match=r"^references must be as wide"):
            loss(x, y, *p, references=x[:, :-1], reference_labels=y)
    if "key" in taken:
        with pytest.raises(ValueError, match=r"^key must be given"):
            loss(x, y, *p, mining="distance_weighted")
    if "swap" in taken:
        with pytest.raises(ValueError, match=r"^swap must be False for formula soft"):
            loss(x, y, *p, formula="soft", swap=True)
    if p and p[0].ndim > 1:
        with pytest.raises(ValueError, match="must be a float array"):
            loss(x, y, p[0][..., :-1])
    if p:
        with pytest.raises(ValueError, match=r"labels must be in 0\.\.2"):
            loss(x, y + 1, *p)
