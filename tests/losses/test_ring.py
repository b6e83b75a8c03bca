"""Embeddings passed round the devices give the results of those that every device has gathered."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses
from jaxml.losses.kernels.formulas import FORMULAS
from jaxml.losses.kernels.mining import MINING
from tests.losses.test_sharding import HOW, N, close, over_devices, step, weights
from tests.spread import spread

pytestmark = pytest.mark.usefixtures("hardly_optimized")

B, D, LARGEST = 52, 4, 14
"""Four devices hold 13 rows each, whose neighbours hold the rest of a class of 14."""
SORTED = [name for name, mining in MINING.items() if mining.has_sorted_form]
DIFFERENCES = [name for name, formula in FORMULAS.items() if not formula.of_three]
CASES = [
    *({"mining": mining} for mining in SORTED),
    *({"formula": formula} for formula in DIFFERENCES[1:]),
    {"formula": "squared_hinge", "mining": "local_class", "distance": "cosine"},
    {"formula": "softplus_margin", "mining": "semi_hard", "distance": "squared", "reduction": "all"},
    {"block_size": 5},
]


def batch(seed=0, largest=LARGEST):
    """Classes of 1 to `largest` rows, in any order."""
    rng = np.random.default_rng(seed)
    sizes = [largest, 1, 2]
    while sum(sizes) < B:
        sizes.append(min(int(rng.integers(1, largest + 1)), B - sum(sizes)))
    labels = rng.permutation(np.repeat(rng.permutation(len(sizes)) * 3 - 7, sizes))
    centre = rng.normal(size=(100, D))
    return jnp.asarray(centre[labels] + rng.normal(size=(B, D)), jnp.float32), jnp.asarray(labels)


def label(case):
    return "-".join(map(str, CASES[case].values()))


@pytest.mark.parametrize(
    ("case", "how"), spread(range(len(CASES)), [h for h in HOW if h != "auto"], label=label)
)
def test_same_as_on_one_device(case, how):
    arguments = (weights(), (), {"margin": jnp.float32(0.7)}), batch(seed=case)
    one = functools.partial(step, "triplet", CASES[case])
    ring = functools.partial(step, "triplet", {**CASES[case], "ring": True})
    want = jax.jit(functools.partial(one, axis_name=None))(*arguments[0], *arguments[1])
    assert want[0][1]["active"] > 0
    close(over_devices(ring, how, *arguments), want)


@pytest.mark.parametrize("count", [1, 2])
def test_any_number_of_devices(count):
    x, labels = batch()

    def loss(x, labels):
        return losses.triplet(x, labels, ring=True, axis_name="d")

    def divided(x, labels):
        (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(x, labels)
        return value, gradient / count  # pmap sums the gradients of all devices' values

    parts = (a.reshape(count, B // count, *a.shape[1:]) for a in (x, labels))
    value, gradient = jax.pmap(divided, "d", devices=jax.devices()[:count])(*parts)
    want, of_want = jax.value_and_grad(lambda x: losses.triplet(x, labels)[0])(x)
    np.testing.assert_allclose(value, np.full(count, want), rtol=1e-6)
    np.testing.assert_allclose(gradient.reshape(B, D), of_want, rtol=1e-5, atol=1e-6)


def test_a_class_that_reaches_beyond_the_neighbours_is_not_wrong_unnoticed():
    x, labels = batch(largest=B // N + 2)
    options = {"ring": True}
    (value, _), (of_weights, *_) = over_devices(
        functools.partial(step, "triplet", options), "pmap", (weights(), (), {}), (x, labels)
    )
    assert np.isnan(value)
    assert np.isnan(of_weights).all()


@pytest.mark.parametrize(
    "options",
    [
        {"formula": "soft"},
        {"mining": "hardest"},
        {"distance": "manhattan"},
        {"swap": True},
        {"references": jnp.ones((2, D)), "reference_labels": jnp.arange(2)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_a_ring_cannot_do_is_refused(options):
    with pytest.raises(ValueError, match=r"^ring must be False for"):
        losses.triplet(*batch(), ring=True, **options)
