"""Regularisers against float64 loops and pytorch-metric-learning, on one device and several."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses
from tests import loops
from tests.losses.test_contract import KEY, batch, close
from tests.losses.test_sharding import over_devices
from tests.spread import spread

X, Y = batch(seed=6)
PROXIES = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, 4)), jnp.float32)
CASES = {
    "embedding_norm": (
        X,
        lambda x, *_: _mean(np.sqrt(sum(x[:, i, d] ** 2 for d in range(4))) for i in range(12)),
    ),
    "zero_mean": (X, lambda x, *_: _mean(_abs(sum(x[:, i, d] for d in range(4))) for i in range(12))),
    "centre_invariance": (PROXIES, lambda p: _mean((q - _mean(_squares(p))) ** 2 / 4 for q in _squares(p))),
}


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def _abs(value):
    return np.where(value.real < 0, -value, value)


def _squares(p):
    return [
        sum(q**2 for q in np.moveaxis(row, -1, 0)) for c in range(3) for row in np.moveaxis(p[:, c], 1, 0)
    ]


def of(name):
    """The regulariser as a function of what it keeps in bounds."""
    if name == "centre_invariance":
        return lambda p, **options: losses.REGULARIZERS[name](X, Y, p, **options)
    return lambda x, **options: losses.REGULARIZERS[name](x, Y, **options)


def test_every_regularizer_is_compared():
    assert set(CASES) == set(losses.REGULARIZERS)
    for name, function in losses.REGULARIZERS.items():
        assert function.__name__ == name
        assert getattr(losses, name) is function
        assert name in losses.__all__


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_loop(name):
    given, loop = CASES[name]
    want, (gradient,) = loops.value_and_gradients(
        lambda a: loops.Result(loop(a)), np.asarray(given, np.float64)
    )
    (value, aux), found = jax.value_and_grad(of(name), has_aux=True)(given)
    np.testing.assert_allclose(value, want.value, rtol=1e-5)
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-6)
    assert value.dtype == jnp.float32
    assert aux["active"] == aux["valid"] == (6 if name == "centre_invariance" else 12)


@pytest.mark.peers
def test_agrees_with_pytorch_metric_learning():
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("pytorch_metric_learning.regularizers")
    peers = {
        "embedding_norm": theirs.LpRegularizer(),
        "zero_mean": theirs.ZeroMeanRegularizer(),
        "centre_invariance": theirs.CenterInvariantRegularizer(),
    }
    for name, peer in peers.items():
        given = PROXIES[:, 0] if name == "centre_invariance" else X
        leaf = torch.tensor(np.asarray(given), requires_grad=True)
        want = peer(leaf)
        want.backward()
        (value, _), found = jax.value_and_grad(of(name), has_aux=True)(given)
        np.testing.assert_allclose(value, want.item(), rtol=1e-5)
        np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("hardly_optimized")
@pytest.mark.parametrize(("name", "how"), spread(CASES, ["pmap", "shard_map", "explicit"]))
def test_same_on_four_devices(name, how):
    w = jnp.eye(4) + 0.1 * jax.random.normal(KEY, (4, 4))

    def step(w, p, x, y, axis_name):
        def loss(w, p):
            extra = (p,) if name == "centre_invariance" else ()
            return losses.REGULARIZERS[name](x @ w, y, *extra, axis_name=axis_name)

        out, grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(w, p)
        return out, grads if axis_name is None else jax.lax.pmean(grads, axis_name)

    want = jax.jit(functools.partial(step, axis_name=None))(w, PROXIES, X, Y)
    close(over_devices(step, how, (w, PROXIES), (X, Y)), want)


@pytest.mark.parametrize("name", CASES)
def test_zeros_and_numbers_that_are_not_finite(name):
    given, _ = CASES[name]
    (value, aux), gradient = jax.value_and_grad(of(name), has_aux=True)(jnp.zeros_like(given))
    assert value == aux["active"] == 0
    assert not np.any(gradient)
    for bad in (np.nan, np.inf):
        (value, _), gradient = jax.value_and_grad(of(name), has_aux=True)(given.at[1, 0].set(bad))
        assert np.isnan(value)
        assert np.isnan(gradient).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"^proxies must be a float array \[classes, D\] with D = 4"):
        losses.centre_invariance(X, Y, PROXIES[0, 0])
    with pytest.raises(ValueError, match=r"^embeddings must"):
        losses.embedding_norm(X[0], Y)
    with pytest.raises(ValueError, match=r"^labels must"):
        losses.zero_mean(X, Y[1:])
