"""multi: weighted sums of losses and regularisers, with the parameters and the aux of each."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses
from tests.losses.test_contract import KEY, D, batch, close, parameters
from tests.losses.test_sharding import over_devices

PARTS = {
    "drawn": partial(losses.triplet, mining="distance_weighted", margin=0.4),
    "proxies": partial(losses.proxy_anchor, alpha=4.0),
    "norm": losses.embedding_norm,
}
WEIGHTS = {"proxies": 0.3, "norm": 0.01}


def values():
    (proxies,) = parameters("proxy_anchor")
    return {"proxies": proxies}


def test_is_the_weighted_sum():
    (x, y), p = batch(), values()
    loss = losses.multi(PARTS, WEIGHTS)
    (value, aux), grads = jax.jit(
        jax.value_and_grad(lambda x, p: loss(x, y, p, key=KEY, block_size=5), argnums=(0, 1), has_aux=True)
    )(x, p)

    def separate(x, p):
        drawn, counts = losses.triplet(x, y, mining="distance_weighted", margin=0.4, key=KEY)
        anchors, _ = losses.proxy_anchor(x, y, p["proxies"], alpha=4.0)
        norm = jnp.mean(jnp.sqrt(jnp.sum(x**2, axis=1)))
        return drawn + 0.3 * anchors + 0.01 * norm, (counts, drawn, anchors, norm)

    (want, (counts, *parts)), want_grads = jax.value_and_grad(separate, argnums=(0, 1), has_aux=True)(x, p)
    close((value, grads), (want, want_grads))
    close([aux[f"{name}_loss"] for name in PARTS], parts)
    assert (aux["active"], aux["valid"]) == (counts["active"], counts["valid"])
    assert (aux["drawn_active"], aux["norm_valid"]) == (counts["active"], len(y))
    assert all(a.shape == () and a.dtype == jnp.float32 for a in aux.values())


def test_transforms_keep_what_their_loss_takes():
    """So that the sum knows which keyword arguments are whose."""
    (x, y), p = batch(), values()
    nested = {"sized": losses.matryoshka(losses.weighted(PARTS["drawn"], [1.0, 2.0, 0.5]), (2,)), **PARTS}
    value, aux = losses.multi(nested, {"sized": 0.5})(x, y, p, key=KEY)
    sized, _ = nested["sized"](x, y, key=KEY)
    close(aux["sized_loss"], sized)
    close(value, 0.5 * sized + losses.multi(PARTS)(x, y, p, key=KEY)[0])


def test_holds_a_memory_as_what_comes_third():
    x, y = batch()
    state = losses.push(losses.memory(5, D), *batch(seed=1))
    loss = losses.multi({"pairs": partial(losses.cross_batch, losses.contrastive), "norm": losses.zero_mean})
    value, aux = loss(x, y, {"pairs": state})
    close(value, losses.cross_batch(losses.contrastive, x, y, state)[0] + losses.zero_mean(x, y)[0])
    assert aux["pairs_memory_valid"] == 12 * 5


def test_weights_are_traced():
    (x, y), p = batch(), values()
    loss = jax.jit(lambda weight: losses.multi(PARTS, {"proxies": weight})(x, y, p, key=KEY)[0])
    values_at = [float(loss(weight)) for weight in (0.0, 1.0, 2.0)]
    np.testing.assert_allclose(values_at[2] - values_at[1], values_at[1] - values_at[0], rtol=1e-5)
    assert values_at[1] > values_at[0]


@pytest.mark.usefixtures("hardly_optimized")
@pytest.mark.parametrize("how", ["pmap", "explicit"])
def test_same_on_four_devices(how):
    w, p = jnp.eye(D) + 0.1 * jax.random.normal(KEY, (D, D)), values()

    def step(w, p, x, y, axis_name):
        loss = losses.multi(PARTS, WEIGHTS)
        out, grads = jax.value_and_grad(
            lambda w, p: loss(x @ w, y, p, key=KEY, axis_name=axis_name), argnums=(0, 1), has_aux=True
        )(w, p)
        return out, grads if axis_name is None else jax.lax.pmean(grads, axis_name)

    close(over_devices(step, how, (w, p), batch()), jax.jit(partial(step, axis_name=None))(w, p, *batch()))


def test_bad_arguments_are_named():
    (x, y), p = batch(), values()
    with pytest.raises(ValueError, match=r"^losses must be one or more functions by name, got none$"):
        losses.multi({})
    with pytest.raises(
        ValueError, match=r"^weights must be a dict with some of the names drawn, proxies, norm, got"
    ):
        losses.multi(PARTS, {"triplet": 1.0})
    with pytest.raises(ValueError, match=r"^weights\['norm'\] must be a finite number of at least 0"):
        losses.multi(PARTS, {"norm": -1.0})
    loss = losses.multi(PARTS, WEIGHTS)
    for wrong in ({"proxy_anchor": p["proxies"]}, p["proxies"]):
        with pytest.raises(
            ValueError, match=r"^parameters must be a dict with some of the names drawn, proxies"
        ):
            loss(x, y, wrong, key=KEY)
    with pytest.raises(TypeError, match=r"^none of drawn, proxies, norm takes temperature$"):
        loss(x, y, p, key=KEY, temperature=1.0)
