"""The registries of formulas, measures and ways of mining: what their rows promise, and that a new row is enough."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses
from jaxml.distances import DISTANCES, l2_normalize
from jaxml.losses.kernels import mining, sorted_sweep
from jaxml.losses.kernels.formulas import FORMULAS, Formula, Options, swapped
from jaxml.losses.kernels.measures import MEASURES, square_of
from jaxml.losses.kernels.mining import MINING, Mining
from tests import loops

MARGIN = 0.3


@pytest.mark.parametrize("name", FORMULAS)
def test_slope_is_the_derivative_of_the_value(name):
    formula = FORMULAS[name]
    d_ap, d_an, d_pn = np.random.default_rng(0).uniform(0.2, 2.0, (3, 50)).astype(np.float32)
    three = formula if formula.of_three else swapped(formula)
    along = jax.grad(lambda *d: three.of(*d, MARGIN).sum(), argnums=(0, 1, 2))(d_ap, d_an, d_pn)
    of_ap, of_an = three.slope(d_ap, d_an, d_pn, MARGIN)
    for slope, expected in zip((of_ap, -of_an, of_an - of_ap), along, strict=True):
        assert (expected != 0).any()
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)
    if not formula.of_three:
        x = d_ap - d_an
        along = jax.grad(lambda x: formula.value(x).sum())(x)
        assert (along > 0).any()
        np.testing.assert_allclose(formula.slope(x), along, rtol=1e-5, atol=1e-7)


def test_hinges_have_a_slope_of_one_or_zero():
    x = jnp.linspace(-2.0, 2.0, 40)
    for name, formula in FORMULAS.items():
        steps = not formula.of_three and set(np.asarray(formula.slope(x)).tolist()) == {0.0, 1.0}
        assert steps == (formula.kind == "hinge"), name


def test_distances_without_a_form_for_sorted_rows():
    """They are no functions of the Euclidean distance, so that their triplets are taken in blocks everywhere."""
    assert {d for d in DISTANCES if MEASURES[d].metric is None} == {"snr", "manhattan", "dot"}
    assert {d for d in DISTANCES if square_of(d) not in MEASURES} == {"dot"}
    squares = [d for d in DISTANCES if d != "dot"]
    assert {d for d in squares if MEASURES[square_of(d)].metric is None} == {"snr", "manhattan"}


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_says_whether_it_is_symmetric(name):
    x = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
    matrix = MEASURES[name].between(x, x + 0)
    assert np.allclose(matrix, matrix.T, rtol=1e-4, atol=1e-4) == MEASURES[name].symmetric


@pytest.mark.parametrize(
    "name", sorted(name for name, measure in MEASURES.items() if measure.metric is not None)
)
def test_both_forms_of_a_distance_agree(name):
    x, y = np.random.default_rng(1).normal(size=(2, 6, 4)).astype(np.float32)
    between, bound, metric, _ = MEASURES[name]
    want = between(x, y)
    assert want.max() <= bound(x, y)
    if name.startswith("cosine"):
        x, y = l2_normalize(x), l2_normalize(y)
    s = ((x[:, None] - y[None]) ** 2).sum(-1)
    np.testing.assert_allclose(metric.value(s), want, rtol=1e-4)
    slope = jax.grad(lambda s: metric.value(s).sum())(s)
    np.testing.assert_allclose(metric.weight(s), 2 * slope, rtol=1e-5)


def test_every_row_is_documented():
    for name in (*FORMULAS, *MINING):
        assert f"{name}: " in losses.triplet.__doc__, name


def test_ways_of_mining_that_draw_take_a_key():
    drawn = {name for name, row in MINING.items() if row.negatives.drawn}
    assert drawn == {"distance_weighted"}
    x, y = jnp.ones((4, 2)), jnp.asarray([0, 0, 1, 1])
    for name in drawn:
        with pytest.raises(ValueError, match=f"key must be given .* for mining {name}"):
            losses.triplet(x, y, mining=name)


def batch():
    rng = np.random.default_rng(3)
    y = np.repeat(np.arange(4), (2, 3, 5, 1))
    x = (rng.normal(size=(4, 3))[y] + rng.normal(size=(len(y), 3))) / 3
    return x.astype(np.float32), y


def loop(chosen, value):
    """The mean of value(d_ap - d_an) over the triplets that chosen(distances of positives, of negatives) picks."""

    def reference(x):
        sets, out = loops.Sets(x, batch()[1].tolist()), loops.Result(np.zeros(x.shape[0], complex))
        d = sets.matrix(loops.dist)
        for a in sets.anchors:
            of = [{j: d[a][j][0].real for j in js} for js in (sets.pos[a], sets.neg[a])]
            for p, n in chosen(*of) if of[0] else []:
                out.value += value(d[a][p] - d[a][n])
                out.active += 1
        out.value /= out.active
        return out

    return reference


def check(formula, mined, reference):
    x, y = batch()
    want, (gradient,) = loops.value_and_gradients(reference, x)
    options = Options(MARGIN, 0.6, 0.5, 1.4)

    def in_blocks(x):
        value, aux = losses.triplet(x, y, formula=formula, mining=mined, margin=MARGIN, block_size=4)
        return value, aux["active"]

    def in_order(x):
        sums = sorted_sweep.terms(
            x,
            jnp.asarray(y, jnp.int32),
            None,
            options,
            formula=FORMULAS[formula],
            mining=MINING[mined],
            measure="euclidean",
            block_size=None,
            axis_name=None,
        )
        return sums.value / sums.active, sums.active

    for form in (in_blocks, in_order) if MINING[mined].has_sorted_form else (in_blocks,):
        (value, active), got = jax.jit(jax.value_and_grad(form, has_aux=True))(x)
        assert int(active) == want.active > 0
        np.testing.assert_allclose(value, want.value, rtol=1e-5)
        np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-4 * abs(gradient).max())


def test_a_new_formula_is_one_row(monkeypatch):
    monkeypatch.setitem(FORMULAS, "exponential", Formula(jnp.exp, jnp.exp, "smooth", has_margin=False))
    every = loop(lambda pos, neg: [(p, n) for p in pos for n in neg], np.exp)
    check("exponential", "all", every)


@pytest.mark.parametrize(
    ("row", "chosen"),
    [
        (
            Mining(mining.NEAREST_POSITIVE, mining.SEMI_HARD_NEGATIVES),
            lambda pos, neg, p: [(p, n) for n in neg if pos[p] < neg[n] < pos[p] + MARGIN],
        ),
        (
            Mining(mining.NEAREST_POSITIVE, mining.NEAREST_NEGATIVE),
            lambda pos, neg, p: [(p, min(neg, key=neg.get))],
        ),
    ],
    ids=["semi-hard negatives", "nearest negative"],
)
def test_a_new_way_of_mining_is_one_row(monkeypatch, row, chosen):
    monkeypatch.setitem(MINING, "new", row)
    with_nearest = loop(
        lambda pos, neg: chosen(pos, neg, min(pos, key=pos.get)), lambda x: np.log(1 + np.exp(x))
    )
    check("softplus", "new", with_nearest)
