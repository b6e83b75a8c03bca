"""The state of the dynamic soft margin: the distribution of earlier batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses
from tests import loops
from tests.losses.test_contract import batch
from tests.losses.test_sharding import HOW, over_devices

R = 9
NODES = np.linspace(-2, 2, R)


def of_batch(x, y, *refs):
    """By loops in float64, from embeddings, labels, and references and their labels where given."""
    single = [np.asarray(a, np.float64)[None].astype(complex) for a in (x, *refs[:1])]
    labels = [np.asarray(a).tolist() for a in (y, *refs[1:])]
    return loops.soft_margins(single[0], labels[0], (*single[1:], *labels[1:]), NODES)[1]


def test_moves_towards_every_batch():
    state, want, move = (
        jnp.zeros(R),
        None,
        jax.jit(functools.partial(losses.margin_distribution, momentum=0.2)),
    )
    for seed in range(4):
        x, y = batch(seed)
        state, of_this = move(state, x, y), of_batch(x, y)
        want = of_this if want is None else 0.8 * want + 0.2 * of_this
        np.testing.assert_allclose(state, want, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(jnp.sum(state), 1, rtol=1e-5)
    assert np.abs(of_this - want).max() > 0.01


def test_of_references():
    (x, y), (r, ry) = batch(), batch(seed=1)
    state = losses.margin_distribution(jnp.zeros(R), x, y, references=r, reference_labels=ry, block_size=5)
    np.testing.assert_allclose(state, of_batch(x, y, r, ry), rtol=1e-5, atol=1e-6)


def test_the_first_batch_is_weighed_by_its_own_distribution():
    x, y = batch()
    state = losses.margin_distribution(jnp.zeros(R), x, y)
    given, own = (
        losses.dynamic_soft_margin(x, y, distribution=state),
        losses.dynamic_soft_margin(x, y, num_bins=R - 1),
    )
    np.testing.assert_allclose(given[0], own[0], rtol=1e-6)
    other = losses.margin_distribution(jnp.zeros(R), *batch(seed=1))
    assert abs(losses.dynamic_soft_margin(x, y, distribution=other)[0] - own[0]) > 1e-3


def test_a_batch_without_triplets_changes_nothing():
    x, y = batch()
    state = losses.margin_distribution(jnp.zeros(R), x, y)
    for labels in (jnp.zeros_like(y), jnp.arange(len(y))):
        np.testing.assert_array_equal(losses.margin_distribution(state, x, labels, momentum=0.5), state)
        assert not np.any(losses.margin_distribution(jnp.zeros(R), x, labels))


def test_no_gradient_passes_through_it():
    x, y = batch()

    def loss(x, state):
        return losses.dynamic_soft_margin(x, y, distribution=losses.margin_distribution(state, x, y))[0]

    of_x, of_state = jax.grad(loss, argnums=(0, 1))(x, jnp.zeros(R))
    state = losses.margin_distribution(jnp.zeros(R), x, y)
    want = jax.grad(lambda x: losses.dynamic_soft_margin(x, y, distribution=state)[0])(x)
    np.testing.assert_allclose(of_x, want, rtol=1e-5, atol=1e-7)
    assert not np.any(of_state)


@pytest.mark.usefixtures("hardly_optimized")
@pytest.mark.parametrize("how", HOW)
def test_same_on_four_devices(how):
    start = losses.margin_distribution(jnp.zeros(R), *batch(seed=1))

    def move(state, x, y, axis_name):
        return losses.margin_distribution(state, x, y, momentum=0.3, axis_name=axis_name)

    np.testing.assert_allclose(
        over_devices(move, how, (start,), batch()), move(start, *batch(), None), rtol=1e-5, atol=1e-6
    )


def test_bad_arguments_are_named():
    x, y = batch()
    for bad in (jnp.zeros((2, 2)), jnp.zeros(1), jnp.zeros(R, jnp.int32), "text"):
        for call in (
            lambda bad=bad: losses.margin_distribution(bad, x, y),
            lambda bad=bad: losses.dynamic_soft_margin(x, y, distribution=bad),
        ):
            with pytest.raises(
                ValueError, match=r"^distribution must be a float array \[R\] of at least two"
            ):
                call()
    with pytest.raises(
        ValueError, match=r"^momentum must be a finite number of at least 0 and of at most 1, got 2"
    ):
        losses.margin_distribution(jnp.zeros(R), x, y, momentum=2)
    with pytest.raises(ValueError, match=r"^labels must"):
        losses.margin_distribution(jnp.zeros(R), x, y[:-1])
