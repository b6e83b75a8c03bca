"""NaN and infinity in any input reach the loss and its gradient; numbers that are merely large do not become NaN."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses
from jaxml.losses.kernels.formulas import FORMULAS
from tests.losses.test_contract import NAMES, VARIANTS, B, D, batch, label, parameters
from tests.spread import spread

SCALE_FREE = {
    "multi_similarity",
    "nt_xent",
    "supervised_contrastive",
    "proxy_nca",
    "proxy_anchor",
    "soft_triple",
    "normalized_softmax",
    "cosface",
    "arcface",
    "subcenter_arcface",
    "circle",
    "tuplet_margin",
    "smooth_ap",
    "fast_ap",
    "recall_at_k",
    "angular",
    "intra_pair_variance",
    "histogram",
    "dynamic_soft_margin",
    "threshold_consistent_margin",
    "instance",
}
TAKE_REFERENCES = [n for n in NAMES if "references" in inspect.signature(losses.LOSSES[n]).parameters]
TAKE_DISTANCE = [n for n in NAMES if "distance" in inspect.signature(losses.LOSSES[n]).parameters]
BAD = [np.nan, np.inf, -np.inf]


def value_and_gradients(name, **options):
    """Compiled function of (x, y, parameters) -> loss, and gradients of x and parameters; in blocks of five."""

    def loss(x, y, p):
        return losses.LOSSES[name](x, y, *p, **options, block_size=5)[0]

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 2)))


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def assert_spoiled(found):
    value, gradients = found
    assert not np.isfinite(value)
    for gradient in jax.tree.leaves(gradients):
        assert not np.isfinite(gradient).any()


@pytest.mark.parametrize("variant", spread(VARIANTS, of=2, turn=1, label=label))
def test_one_number_spoils_loss_and_gradient(variant):
    name, options = variant
    (x, y), p = batch(), parameters(name)
    run = value_and_gradients(name, **options)
    assert finite(run(x, y, p))
    for number in BAD:
        assert_spoiled(run(x.at[B - 1, 1].set(number), y, p))
        assert_spoiled(run(x.at[:].set(number), y, p))
        if p:
            assert_spoiled(run(x, y, (p[0].at[(-1,) * p[0].ndim].set(number),)))
    # Without any pair or triplet, the loss is NaN too.
    one_class = jnp.zeros(B, jnp.int32)
    assert_spoiled(run(x.at[0, 0].set(np.nan), one_class, p))

    large = run(1e20 * x, y, p)
    if name in SCALE_FREE:
        np.testing.assert_allclose(large[0], run(x, y, p)[0], rtol=1e-5)
        assert finite(large)
    else:
        assert_spoiled(large)


@pytest.mark.parametrize(("name", "distance"), spread(TAKE_DISTANCE, ["squared", "cosine", "snr"]))
def test_other_distances(name, distance):
    (x, y), p = batch(), parameters(name)
    run = value_and_gradients(name, distance=distance)
    want = run(x, y, p)
    assert finite(want)
    assert_spoiled(run(x.at[3, 1].set(np.nan), y, p))
    large = run(1e20 * x, y, p)
    if distance in ("cosine", "snr"):
        np.testing.assert_allclose(large[0], want[0], rtol=1e-5)
        assert finite(large)
    else:
        assert_spoiled(large)


@pytest.mark.parametrize("mining", ["all", "hardest"])
def test_a_square_of_a_square_overflows_earlier(mining):
    x, y = batch()
    run = value_and_gradients(
        "triplet", formula="squared_hinge", distance="squared", mining=mining, margin=0.0
    )
    want = run(x, y, ())
    value, gradients = run(1e3 * x, y, ())
    np.testing.assert_allclose(value, 1e12 * float(want[0]), rtol=1e-5)
    assert finite(gradients)
    assert_spoiled(run(1e12 * x, y, ()))


@pytest.mark.parametrize("name", ["generalized_lifted", "triplet", "margin", "n_pairs"])
def test_large_distances_that_float32_holds_are_no_overflow(name):
    """Logarithms of sums, too, beyond 1e30."""
    (x, y), p = batch(), parameters(name)
    options = {} if name == "n_pairs" else {"distance": "squared", "margin": 0.0}
    run = value_and_gradients(name, **options)
    p = [0 * q for q in p]  # the boundaries of `margin` are no multiple of the distances
    small, large = run(1e8 * x, y, p), run(1e17 * x, y, p)
    np.testing.assert_allclose(large[0], 1e18 * float(small[0]), rtol=1e-4)
    assert large[0] > 1e32
    assert finite(large)


@pytest.mark.parametrize("name", spread(TAKE_REFERENCES, of=2))
def test_references_that_are_there(name):
    (x, y), (r, ry), p = batch(), batch(seed=1), parameters(name)
    mask = jnp.arange(B) != 4

    @jax.jit
    def run(r, ry):
        def loss(x, r):
            references = {"references": r, "reference_labels": ry, "reference_mask": mask}
            return losses.LOSSES[name](x, y, *p, **references)[0]

        return jax.value_and_grad(loss, argnums=(0, 1))(x, r)

    assert finite(run(r, ry))
    for number in BAD:
        assert finite(run(r.at[4].set(number), ry))
        value, (of_x, of_r) = run(r.at[5, 0].set(number), ry)
        assert not np.isfinite(value)
        assert not np.isfinite(of_x).any()
        assert not np.isfinite(of_r[mask]).any()


def test_memory_and_voting_without_weight():
    (x, y), p = batch(), parameters("soft_voting")
    state = losses.push(losses.memory(B + 4, D), x.at[2, 2].set(np.nan), y)
    assert np.isnan(losses.cross_batch(losses.triplet, x, y, state, weight=0.0)[0])
    assert np.isnan(losses.soft_voting(x, y, p[0].at[0, 0, 0].set(np.nan), weight=0.0)[0])


def on_two_devices(loss, x, y, *p):
    """The loss that each device reports, and the mean gradient."""

    def step(x, y, *p):
        value, gradient = jax.value_and_grad(lambda x: loss(x, y, *p, axis_name="i")[0])(x)
        return value, jax.lax.pmean(gradient, "i")

    mapped = jax.pmap(step, "i", in_axes=(0, 0, *(None for _ in p)), devices=jax.devices()[:2])
    return mapped(x.reshape(2, -1, x.shape[1]), y.reshape(2, -1), *p)


@pytest.mark.parametrize(
    "name", ["triplet", "with references", "multi_similarity", "proxy_anchor", "input_triplets"]
)
def test_one_device_spoils_the_loss_of_all(name):
    (x, y), p = batch(), parameters(name)
    if name == "with references":
        r, ry = batch(seed=1)

        def loss(x, y, axis_name):
            return losses.contrastive(x, y, references=r, reference_labels=ry, axis_name=axis_name)
    else:
        loss = getattr(losses, name)
    assert finite(on_two_devices(loss, x, y, *p))
    for row in (0, B - 1):
        value, gradient = on_two_devices(loss, x.at[row, 0].set(np.nan), y, *p)
        assert not np.isfinite(value).any()
        assert not np.isfinite(gradient).any()


@pytest.mark.parametrize("formula", FORMULAS)
def test_given_distances_and_given_triplets(formula):
    rng = np.random.default_rng(0)
    d = jnp.asarray(rng.uniform(0.2, 1.5, (3, 20)), jnp.float32)
    of_distances = jax.jit(jax.value_and_grad(lambda d: losses.triplet_distances(*d, formula=formula)[0]))
    x, y = jnp.asarray(rng.normal(size=(9, 4)), jnp.float32), jnp.zeros(9, jnp.int32)
    of_triplets = [
        jax.jit(
            jax.value_and_grad(
                lambda x, swap=swap: losses.input_triplets(x, y, formula=formula, swap=swap)[0]
            )
        )
        for swap in (False, True)
    ]
    assert finite([of_distances(d), *(run(x) for run in of_triplets)])
    for number in (*BAD, 1e38):
        for row in range(3):
            value, gradient = of_distances(d.at[row, 7].set(number))
            assert_spoiled((value, gradient[:2]))  # most formulas do not look at d_pn
            for run in of_triplets:
                assert_spoiled(run(x.at[3 + row, 1].set(number)))
    for run in of_triplets:
        assert_spoiled(run(1e20 * x))
    assert losses.triplet_distances(d[0, :0], d[1, :0], d[2, :0], formula=formula)[0] == 0
