"""Masks in place of labels: the same results where they say the same, and pairs that no labels could say."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses
from jaxml.losses.kernels.mining import MINING
from tests import loops
from tests.losses.test_contract import KEY, NAMES, B, D, batch, close, label
from tests.losses.test_sharding import over_devices
from tests.spread import spread

pytestmark = pytest.mark.usefixtures("hardly_optimized")

TAKE_MASKS = [
    n for n in NAMES if "Masks" in str(inspect.signature(losses.LOSSES[n]).parameters["labels"].annotation)
]
CASES = [
    *((name, {}) for name in TAKE_MASKS),
    *(("triplet", {"mining": m}) for m in MINING if m not in ("all", "local_class")),
    ("triplet", {"formula": "soft"}),
    ("triplet", {"swap": True}),
    ("triplet", {"formula": "softplus", "mining": "batch_hard"}),
    ("smooth_ap", {"with_anchor": True}),
]


def options_of(case):
    name, options = case
    drawn = MINING[options.get("mining", "all")].negatives.drawn
    return losses.LOSSES[name], {**options, **({"key": KEY} if drawn else {}), "block_size": 5}


def masks_of(y, z=None):
    same = np.asarray(y)[:, None] == np.asarray(y if z is None else z)[None, :]
    return losses.Masks(jnp.asarray(same), jnp.asarray(~same))


def gradients(loss, options, x, y):
    return jax.jit(jax.value_and_grad(lambda x: loss(x, y, **options), has_aux=True))(x)


def test_these_losses_take_masks():
    """The others compare with proxies by class, or look further than one anchor's row, and say so."""
    refuse = {*NAMES} - {*TAKE_MASKS}
    assert {"contrastive", "multi_similarity", "triplet"} <= {*TAKE_MASKS}
    assert {"lifted", "margin", "proxy_anchor"} <= refuse
    x, y = batch()
    for name in sorted(refuse):
        p = (losses.PARAMETERS[name](KEY, 3, D),) if name in losses.PARAMETERS else ()
        with pytest.raises(ValueError, match=r"^labels must be an integer array \[B\]"):
            losses.LOSSES[name](x, masks_of(y), *p)


@pytest.mark.parametrize("case", spread(CASES, of=3, label=label))
def test_the_same_as_labels(case):
    """The diagonal is no pair, although the masks have it as a positive."""
    loss, options = options_of(case)
    x, y = batch()
    want = gradients(loss, options, x, y)
    assert want[0][1]["valid"] > 0
    if "key" not in options:  # draws depend on the place of a positive among those of its label
        close(gradients(loss, options, x, masks_of(y)), want)
    if "with_anchor" not in options:
        r, ry = batch(seed=1, size=9)
        there = np.arange(9) != 4
        want = gradients(
            loss, {**options, "references": r, "reference_labels": ry, "reference_mask": there}, x, y
        )
        got = gradients(loss, {**options, "references": r, "reference_mask": there}, x, masks_of(y, ry))
        close(got, want)


def pairs(seed=3):
    """Relations that are neither symmetric nor classes, with pairs of neither kind and an anchor without positives."""
    kind = np.random.default_rng(seed).choice(3, size=(B, B), p=[0.3, 0.5, 0.2])
    kind[4][kind[4] == 0] = 2
    np.fill_diagonal(kind, 2)
    return kind == 0, kind == 1


def loop_contrastive(x, positive, negative):
    near = [loops.dist(x[:, a], x[:, j]) ** 2 / 2 for a, j in zip(*np.nonzero(positive), strict=True)]
    far = [loops.dist(x[:, a], x[:, j]) for a, j in zip(*np.nonzero(negative), strict=True)]
    return sum(near) / len(near) + sum(np.where(d.real < 1, 1 - d, 0) ** 2 / 2 for d in far) / len(far)


def loop_supervised_contrastive(x, positive, negative):
    terms = []
    for a in range(B):
        s = {j: loops.cosine(x[:, a], x[:, j]) / 0.1 for j in range(B) if positive[a, j] or negative[a, j]}
        own = [s[j] for j in s if positive[a, j]]
        if own:
            terms.append(loops.log_sum(list(s.values())) - sum(own) / len(own))
    return sum(terms) / len(terms)


def loop_nt_xent(x, positive, negative):
    terms = []
    for a, p in zip(*np.nonzero(positive), strict=True):
        s = [loops.cosine(x[:, a], x[:, j]) / 0.1 for j in (p, *np.flatnonzero(negative[a]))]
        if len(s) > 1:
            terms.append(loops.log_sum(s) - s[0])
    return sum(terms) / len(terms)


def loop_triplet(x, positive, negative):
    terms = []
    for a, p in zip(*np.nonzero(positive), strict=True):
        for n in np.flatnonzero(negative[a]):
            value = loops.dist(x[:, a], x[:, p]) - loops.dist(x[:, a], x[:, n]) + 0.2
            if value[0].real > 0:
                terms.append(value)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("loop", [loop_contrastive, loop_supervised_contrastive, loop_nt_xent, loop_triplet])
def test_agrees_with_loop(loop):
    (x, _), given = batch(seed=8), pairs()
    want, (gradient,) = loops.value_and_gradients(
        lambda x: loops.Result(loop(x, *given)), np.asarray(x, np.float64)
    )
    loss = losses.LOSSES[loop.__name__.removeprefix("loop_")]
    (value, _), found = gradients(loss, {"block_size": 5}, x, losses.Masks(*map(jnp.asarray, given)))
    np.testing.assert_allclose(value, want.value, rtol=1e-5)
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-5 * np.abs(gradient).max())


@pytest.mark.parametrize(
    "mining", spread(["hardest", "batch_hard", "easy_positive", "semi_hard", "distance_weighted"], of=2)
)
def test_soft_triplets_are_not_taken_for_symmetric(mining):
    """By single anchors against references, for which nothing is assumed of the other anchors."""
    (x, _), (positive, negative) = batch(seed=8), pairs()
    options = {"formula": "soft", "mining": "all" if mining == "distance_weighted" else mining}
    masks = losses.Masks(jnp.asarray(positive), jnp.asarray(negative))

    def one_by_one(x):
        total = number = 0.0
        for a in range(B):
            own = losses.Masks(*(mask[a : a + 1] for mask in masks))
            value, aux = losses.triplet(x[a : a + 1], own, references=x, **options)
            total, number = total + value * aux["active"], number + aux["active"]
        return total / number, number

    want = jax.jit(jax.value_and_grad(one_by_one, has_aux=True))(x)
    (value, aux), found = gradients(losses.triplet, {**options, "block_size": 5}, x, masks)
    assert aux["active"] == want[0][1]
    close((value, found), (want[0][0], want[1]))


@pytest.mark.parametrize(
    ("name", "how"), spread(["contrastive", "triplet"], ["pmap", "shard_map", "explicit"])
)
def test_same_on_four_devices(name, how):
    w, (x, _) = jnp.eye(D) + 0.1 * jax.random.normal(KEY, (D, D)), batch()
    positive, negative = map(jnp.asarray, pairs())

    def step(w, x, positive, negative, axis_name):
        def loss(w):
            return losses.LOSSES[name](x @ w, losses.Masks(positive, negative), axis_name=axis_name)

        out, gradient = jax.value_and_grad(loss, has_aux=True)(w)
        return out, gradient if axis_name is None else jax.lax.pmean(gradient, axis_name)

    want = jax.jit(functools.partial(step, axis_name=None))(w, x, positive, negative)
    close(over_devices(step, how, (w,), (x, positive, negative)), want)


def test_bad_masks_are_named():
    (x, y), (positive, negative) = batch(), masks_of(batch()[1])
    for wrong in (positive[:, :-1], positive.astype(float), "text", None, positive[0]):
        with pytest.raises(
            ValueError, match=r"^positive must be a boolean array \[12, 12\], a row for each of the emb"
        ):
            losses.contrastive(x, losses.Masks(wrong, negative))
        with pytest.raises(ValueError, match=r"^negative must be a boolean array \[12, 12\]"):
            losses.contrastive(x, losses.Masks(positive, wrong))
    masks = losses.Masks(positive, negative)
    with pytest.raises(
        ValueError, match=r"^negative must be a boolean array \[12, 9\]|^positive must .*\[12, 9\]"
    ):
        losses.contrastive(x, masks, references=x[:9])
    with pytest.raises(
        ValueError, match=r"^reference_labels must not be given where masks take the place of labels"
    ):
        losses.contrastive(x, masks, references=x, reference_labels=y)
    with pytest.raises(ValueError, match=r"^mining must not be local_class .* masks"):
        losses.triplet(x, masks, mining="local_class")
    with pytest.raises(ValueError, match=r"^labels must be an integer array"):
        losses.weighted(losses.contrastive, [1.0, 2.0])(x, masks)
