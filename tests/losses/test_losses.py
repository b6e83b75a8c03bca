"""Values and gradients of every loss x mining against plain float64 loops, on generated batches."""

import inspect
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from jaxml import losses
from jaxml.losses.kernels import windows
from jaxml.losses.kernels.formulas import FORMULAS, log1p
from jaxml.losses.kernels.mining import MINING
from tests import loops
from tests.spread import spread

B, M, D, CLASSES = 12, 10, 4, 4
KEY = jax.random.key(7)
BALANCED = [i % CLASSES for i in range(B + M)]
HINGES = {name for name, formula in FORMULAS.items() if formula.kind == "hinge"}
EXAMPLES = int(os.environ.get("JAXML_EXAMPLES", "16"))

TRIPLETS = [("triplet", {"formula": f, "mining": m, "margin": 0.3}) for m in MINING for f in FORMULAS]
OTHERS = [
    ("triplet", {"formula": "hinge", "mining": "all", "margin": 0.3, "distance": "squared"}),
    ("triplet", {"formula": "soft", "mining": "all", "margin": 0.3, "distance": "cosine"}),
    ("triplet", {"formula": "hinge", "mining": "all", "margin": 0.3, "distance": "snr"}),
    ("triplet", {"formula": "squared_hinge", "mining": "semi_hard", "margin": 0.3, "distance": "snr"}),
    ("triplet", {"formula": "soft", "mining": "all", "margin": 0.3, "distance": "snr"}),
    ("triplet", {"formula": "hinge", "mining": "local", "margin": 0.3, "quantile": 0.3}),
    ("triplet", {"formula": "hinge", "mining": "all", "margin": 0.3, "swap": True}),
    ("triplet", {"formula": "hinge", "mining": "all", "margin": 0.3, "swap": True, "distance": "snr"}),
    ("triplet", {"formula": "squared_hinge", "mining": "semi_hard", "margin": 0.3, "swap": True}),
    ("triplet", {"formula": "softplus_margin", "mining": "hardest", "margin": 0.3, "swap": True}),
    ("triplet", {"formula": "ratio", "mining": "distance_weighted", "swap": True, "distance": "snr"}),
    ("triplet", {"formula": "hinge", "mining": "nearest_semi_hard", "margin": 0.3, "reduction": "all"}),
    ("triplet", {"formula": "squared_hinge", "mining": "all", "margin": 0.3, "reduction": "all"}),
    ("contrastive", {"margin": 1.5}),
    ("contrastive", {"margin": 1.5, "positive_margin": 0.4, "reduction": "active"}),
    ("contrastive", {"margin": 1.5, "power": 1}),
    ("contrastive", {"margin": 1.5, "positive_margin": 0.7}),
    ("contrastive", {"margin": 1.5, "power": 1, "distance": "snr"}),
    ("contrastive", {"margin": 3.0, "distance": "manhattan"}),
    ("multi_similarity", {}),
    ("multi_similarity", {"alpha": 3.0, "beta": 10.0, "base": 0.2, "epsilon": 0.3}),
    ("multi_similarity", {"epsilon": 0.2, "one_sided": True}),
    ("lifted", {}),
    ("lifted", {"distance": "snr"}),
    ("lifted", {"distance": "dot"}),
    ("triplet", {"mining": "semi_hard", "distance": "manhattan"}),
    ("triplet", {"formula": "soft", "mining": "all", "distance": "dot"}),
    ("generalized_lifted", {"margin": 0.1}),
    ("generalized_lifted", {"margin": 0.1, "one_sided": True}),
    ("n_pairs", {}),
    ("n_pairs", {"reduction": "anchors"}),
    ("nt_xent", {"temperature": 0.5}),
    ("nt_xent", {"temperature": 0.5, "distance": "euclidean"}),
    ("nt_xent", {"temperature": 0.7, "distance": "squared", "reduction": "anchors"}),
    ("nt_xent", {"temperature": 0.7, "distance": "dot"}),
    ("supervised_contrastive", {"temperature": 0.5}),
    ("supervised_contrastive", {"temperature": 0.5, "distance": "snr"}),
    ("margin", {"nu": 0.1}),
    ("margin", {"nu": 0.1, "nu_per": "active"}),
    ("margin", {"nu": 0.1, "nu_per": "active", "mining": "distance_weighted"}),
    ("margin", {"mining": "distance_weighted"}),
    ("proxy_nca", {"scale": 3.0}),
    ("proxy_nca", {"scale": 3.0, "own_in_sum": True}),
    ("proxy_anchor", {"alpha": 8.0}),
    ("soft_triple", {}),
    ("soft_voting", {"weight": 0.5, "temperature": 0.7}),
    ("normalized_softmax", {"scale": 5.0}),
    ("cosface", {"scale": 5.0}),
    ("cosface", {"scale": 5.0, "class_weights": np.array([0.5, 1.0, 2.0, 0.0])}),
    ("arcface", {"scale": 5.0}),
    ("arcface", {"scale": 3.0, "margin": 2.0}),
    ("subcenter_arcface", {"scale": 5.0}),
    ("sphereface", {"scale": 3.0}),
    ("sphereface", {"margin": 2.0}),
    ("circle", {"scale": 8.0}),
    ("tuplet_margin", {"scale": 8.0, "margin": 0.3}),
    ("nca", {"scale": 2.0}),
    ("nca", {"scale": 2.0, "distance": "cosine"}),
    ("nca", {"scale": 2.0, "distance": "snr"}),
    ("ranked_list", {"boundary": 0.6, "margin": 0.2}),
    ("ranked_list", {"boundary": 0.5, "positive_temperature": 3.0, "balance": 0.3}),
    ("smooth_ap", {"temperature": 0.2}),
    ("smooth_ap", {"temperature": 0.2, "with_anchor": True}),
    ("fast_ap", {}),
    ("fast_ap", {"num_bins": 7}),
    ("recall_at_k", {"temperature": 0.2}),
    ("recall_at_k", {"temperature": 0.1, "ks": (1, 3), "rank_temperature": 0.5}),
    ("angular", {"angle": 0.6}),
    ("angular", {}),
    ("intra_pair_variance", {}),
    ("intra_pair_variance", {"positive_epsilon": 0.2, "negative_epsilon": 0.3}),
    ("histogram", {}),
    ("histogram", {"num_bins": 7}),
    ("dynamic_soft_margin", {}),
    ("dynamic_soft_margin", {"num_bins": 6}),
    ("dynamic_soft_margin", {"distribution": np.array([0.0, 0.1, 0.4, 0.0, 0.3, 0.2])}),
    ("threshold_consistent_margin", {}),
    (
        "threshold_consistent_margin",
        {"positive_margin": 0.6, "negative_margin": 0.1, "positive_weight": 0.4, "negative_weight": 3.0},
    ),
    ("instance", {"scale": 8.0}),
]
AGAINST_REFERENCES = [
    *(("triplet", {"formula": "hinge", "mining": m, "margin": 0.3}) for m in MINING),
    *(("triplet", {"formula": "soft", "mining": m, "margin": 0.3}) for m in ("all", "semi_hard", "hardest")),
    ("triplet", {"formula": "softplus_margin", "mining": "all", "margin": 0.3, "swap": True}),
    *(
        (name, {})
        for name in losses.LOSSES
        if "references" in inspect.signature(losses.LOSSES[name]).parameters
    ),
]
FIRST = {case[0]: case for case in reversed(OTHERS)}
"""One case of each loss, which is never left to slow tests."""


def test_every_loss_is_compared():
    assert set(FIRST) == set(losses.LOSSES)
    assert set(loops.MINING) == set(MINING)
    assert set(loops.FORMULAS) == set(FORMULAS)


def takes_a_key(options):
    return MINING[options.get("mining", "all")].negatives.drawn


def label(case):
    name, options, references = case
    return "-".join([name, *(str(v) for v in options.values()), *(["references"] if references else [])])


def without_references(cases):
    return [(name, options, False) for name, options in cases]


@pytest.mark.parametrize(
    "case",
    [
        *spread(without_references(TRIPLETS), of=4, label=label),
        *spread(without_references(FIRST.values()), of=1, label=label),
        *spread(without_references(c for c in OTHERS if c is not FIRST[c[0]]), of=2, label=label),
        *spread([(name, options, True) for name, options in AGAINST_REFERENCES], of=2, label=label),
    ],
)
def test_agrees_with_loop(case):
    name, options, references = case
    loss = losses.LOSSES[name]
    if takes_a_key(options):
        options = {**options, "key": KEY}
    parameters = name in losses.PARAMETERS
    # Five anchors at a time: two full blocks and a part of one.
    ours = jax.jit(
        lambda arrays, y, ry: jax.value_and_grad(
            lambda a: loss(a[0], y, *a[2:], **_references(a[1], ry), **options, block_size=5), has_aux=True
        )(arrays)
    )

    def _references(r, ry):
        return {"references": r, "reference_labels": ry} if references else {}

    shares = []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    # Batches of all classes, for some triplets must lie on either side of their limit.
    @example(0, BALANCED)
    @example(1, BALANCED)
    @example(2, BALANCED)
    @example(3, BALANCED)
    @given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, CLASSES - 1), min_size=B + M, max_size=B + M))
    def check(seed, labels):
        rng = np.random.default_rng(seed)
        y, ry = np.array(labels[:B], np.int32), np.array(labels[B:], np.int32)
        centre = rng.normal(size=(CLASSES, D))
        # Lengths of about 1, as embeddings have: float32 knows no distance better than its size allows.
        x = ((centre[y] + rng.normal(size=(B, D))) / 4).astype(np.float32)
        r = ((centre[ry] + rng.normal(size=(M, D))) / 4).astype(np.float32)
        init = losses.PARAMETERS.get(name)
        p = [np.asarray(init(jax.random.key(seed % 1000), CLASSES, D)) * 1.1] if parameters else []
        reference = partial(getattr(loops, name), **options)
        if references and parameters:
            call = lambda x, r, p: reference(x, p, y.tolist(), r, ry.tolist())  # noqa: E731
        elif references:
            call = lambda x, r: reference(x, y.tolist(), r, ry.tolist())  # noqa: E731
        else:
            call = lambda x, r, *p: reference(x, *p, y.tolist())  # noqa: E731
        want, gradients = loops.value_and_gradients(call, x, r, *p)
        assume(want.edge > 1e-5)
        (value, aux), got = ours((jnp.asarray(x), jnp.asarray(r), *p), y, ry)
        assert (int(aux["active"]), int(aux["valid"])) == (want.active, want.valid)
        np.testing.assert_allclose(value, want.value, rtol=1e-5, atol=1e-6)
        for g, w in zip(got, gradients, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4 * max(abs(w).max(), 1e-2))
        shares.append(want.active / max(want.valid, 1))

    check()
    # In a window, all triplets are active.
    window = MINING[options.get("mining", "all")].negatives.window
    if options.get("formula") in HINGES and window in (None, windows.anywhere):
        assert any(0 < share < 1 for share in shares)
    assert any(share > 0 for share in shares)


def test_log1p():
    e = np.exp(-np.linspace(0, 80, 10_001)).astype(np.float32)
    np.testing.assert_allclose(log1p(e), np.log1p(e.astype(np.float64)), rtol=4e-7)


@pytest.mark.parametrize("formula", FORMULAS)
def test_given_distances(formula):
    rng = np.random.default_rng(0)
    distances = rng.uniform(0.2, 1.5, size=(3, 50)).astype(np.float32)

    def reference(d):
        out = loops.Result(np.zeros(d.shape[0], complex))
        for t in range(50):
            ap, an, pn = (d[:, i, t] ** (2 if formula == "squared_hinge" else 1) for i in range(3))
            value = loops.FORMULAS[formula](ap, an, pn, 0.2)
            out.valid += 1
            if formula not in HINGES or value[0].real > 0:
                out.active += 1
                out.value += value
        out.value /= out.active
        return out

    want, (gradient,) = loops.value_and_gradients(reference, distances)
    (value, aux), got = jax.value_and_grad(
        lambda d: losses.triplet_distances(*d, formula=formula), has_aux=True
    )(jnp.asarray(distances))
    assert (int(aux["active"]), int(aux["valid"])) == (want.active, 50)
    np.testing.assert_allclose(value, want.value, rtol=1e-6)
    np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-7)


WITH_NUMBERS = [
    (name, options)
    for name, options in TRIPLETS + OTHERS
    if any(isinstance(v, float) for v in options.values())
    and (options.get("formula"), options.get("mining"))
    not in {(f, m) for f in FORMULAS for m in MINING if m != "all"} - {("hinge", "hardest")}
]


@pytest.mark.parametrize("case", spread(WITH_NUMBERS, of=3, label=lambda case: label((*case, False))))
def test_hyperparameters_have_gradients(case):
    name, options = case
    numbers = {k: v for k, v in options.items() if isinstance(v, float) and k != "quantile"}
    fixed = {k: v for k, v in options.items() if k not in numbers}
    if takes_a_key(fixed):
        fixed["key"] = KEY
    rng = np.random.default_rng(1)
    y = rng.integers(0, CLASSES, B)
    x = rng.normal(size=(B, D)) + rng.normal(size=(CLASSES, D))[y]
    p = [losses.PARAMETERS[name](KEY, CLASSES, D)] if name in losses.PARAMETERS else []
    got = jax.grad(lambda n: losses.LOSSES[name](jnp.asarray(x), y, *p, **n, **fixed)[0])(numbers)
    for k in numbers:

        def reference(h, k=k):
            changed = {**numbers, k: numbers[k] + h}
            parts = [np.asarray(q, np.float64)[None].astype(complex) for q in (x.astype(np.float32), *p)]
            return getattr(loops, name)(*parts, y.tolist(), **changed, **fixed).value[0]

        want = reference(1j * loops.STEP).imag / loops.STEP
        np.testing.assert_allclose(got[k], want, rtol=1e-4, atol=1e-5)
