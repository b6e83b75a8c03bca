"""matryoshka: the mean of a loss over nested parts of the embedding, for every loss that there is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses
from tests import loops
from tests.losses.test_contract import KEY, NAMES, close
from tests.losses.test_sharding import over_devices
from tests.spread import spread

pytestmark = pytest.mark.usefixtures("hardly_optimized")

B, D, CLASSES = 12, 6, 3
SIZES = (2, 4)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, B - CLASSES)]).astype(np.int32)
    centre = rng.normal(size=(CLASSES, D))
    return jnp.asarray(centre[y] + rng.normal(size=(B, D)), jnp.float32), jnp.asarray(y)


def parameters(name):
    """For every size its own."""
    if name not in losses.PARAMETERS:
        return ()
    init, keys = losses.PARAMETERS[name], jax.random.split(KEY, len(SIZES) + 1)
    return (tuple(init(k, CLASSES, m) for k, m in zip(keys, (*SIZES, D), strict=True)),)


def value_and_gradients(loss, x, y, p):
    return jax.value_and_grad(lambda x, p: loss(x, y, *p), argnums=(0, 1), has_aux=True)(x, p)


@pytest.mark.parametrize("name", spread(NAMES, of=3))
def test_is_the_mean_over_the_parts(name):
    """By single calls of the loss; parts are scaled in NumPy."""
    (x, y), p = batch(), parameters(name)
    loss = losses.LOSSES[name]
    (value, aux), (of_x, of_p) = value_and_gradients(losses.matryoshka(loss, SIZES), x, y, p)
    values, counts = [], []
    for i, m in enumerate((*SIZES, D)):
        part = np.asarray(x, np.float64)[:, :m]
        part = jnp.asarray(part / np.linalg.norm(part, axis=1, keepdims=True), jnp.float32)
        own, of_part = loss(part, y, *(q[i] for q in p))
        values.append(float(own))
        counts.append({k: float(v) for k, v in of_part.items()})
    np.testing.assert_allclose(value, np.mean(values), rtol=1e-5)
    assert len(set(values)) == 3
    assert value.dtype == jnp.float32
    assert aux.keys() == counts[0].keys()
    for key in aux:
        np.testing.assert_allclose(aux[key], np.mean([c[key] for c in counts]), rtol=1e-6)
    assert 0 < aux["active"] <= aux["valid"]
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(of_p)), "a size whose parameters learn nothing"
    # The parts leave the length of a row as it is.
    assert np.abs(jnp.sum(x * of_x, axis=1)).max() < 1e-5 * np.abs(of_x).max() * np.abs(x).max() * D


def test_agrees_with_loop():
    def reference(x, labels):
        values = [loops.supervised_contrastive(loops.unit(x[..., :m]), labels).value for m in (*SIZES, D)]
        return loops.Result(sum(values) / 3)

    x, y = batch()
    want, (gradient,) = loops.value_and_gradients(
        functools.partial(reference, labels=y.tolist()), np.asarray(x)
    )
    (value, _), (got, _) = value_and_gradients(
        losses.matryoshka(losses.supervised_contrastive, SIZES), x, y, ()
    )
    np.testing.assert_allclose(value, want.value, rtol=1e-5)
    np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-5)


def test_parts_as_they_are():
    """For losses of inner products, which embeddings of any length have."""
    x, y = batch()
    value, _ = losses.matryoshka(losses.n_pairs, SIZES, normalize=False)(x, y)
    np.testing.assert_allclose(
        value, np.mean([losses.n_pairs(x[:, :m], y)[0] for m in (*SIZES, D)]), rtol=1e-6
    )


def test_without_sizes_it_is_the_loss():
    x, y = batch()
    close(
        losses.matryoshka(losses.triplet, (), normalize=False)(x, y, margin=0.3),
        losses.triplet(x, y, margin=0.3),
    )


def test_references_and_the_teacher():
    """References are cut as the embeddings are; a teacher's embeddings are not."""
    (x, y), (r, ry) = batch(), batch(seed=1)
    state = losses.push(losses.memory(B, D), r, ry)
    value, aux = losses.cross_batch(losses.matryoshka(losses.contrastive, SIZES), x, y, state, weight=0.5)
    assert aux["memory_valid"] == B * B
    unit = [[loops.unit(np.asarray(z[:, :m])) for z in (x, r)] for m in (*SIZES, D)]
    own = [losses.contrastive(u, y)[0] for u, _ in unit]
    other = [losses.contrastive(u, y, references=v, reference_labels=ry)[0] for u, v in unit]
    np.testing.assert_allclose(value, np.mean(own) + 0.5 * np.mean(other), rtol=1e-5)
    value, _ = losses.matryoshka(losses.relaxed_contrastive, SIZES)(x, r, sigma=2.0)
    each = [losses.relaxed_contrastive(u, r, sigma=2.0)[0] for u, _ in unit]
    np.testing.assert_allclose(value, np.mean(each), rtol=1e-5)


@pytest.mark.parametrize(("name", "how"), spread(["triplet", "proxy_anchor"], ["pmap", "explicit"]))
def test_same_on_four_devices(name, how):
    w, p = jnp.eye(D) + 0.1 * jax.random.normal(KEY, (D, D)), parameters(name)

    def step(w, p, x, y, axis_name):
        loss = losses.matryoshka(functools.partial(losses.LOSSES[name], axis_name=axis_name), SIZES)
        out, gradients = jax.value_and_grad(lambda w, p: loss(x @ w, y, *p), argnums=(0, 1), has_aux=True)(
            w, p
        )
        return out, gradients if axis_name is None else jax.lax.pmean(gradients, axis_name)

    close(
        over_devices(step, how, (w, p), batch()),
        jax.jit(functools.partial(step, axis_name=None))(w, p, *batch()),
    )


def test_types_and_numbers_that_are_not_finite():
    x, y = batch()
    loss = losses.matryoshka(losses.multi_similarity, SIZES)
    (value, _), (gradient, _) = value_and_gradients(loss, x.astype(jnp.bfloat16), y, ())
    assert (value.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)
    with jax.enable_x64(True):
        wide, _ = loss(jnp.asarray(np.asarray(x), jnp.float64), y)
        assert wide.dtype == jnp.float32
    for bad in (x.at[3, 0].set(np.nan), x.at[3, D - 1].set(np.nan)):
        (value, _), (gradient, _) = value_and_gradients(loss, bad, y, ())
        assert np.isnan(value)
        assert np.isnan(gradient).all()
    (value, _), (gradient, _) = value_and_gradients(loss, jnp.zeros((B, D)), y, ())
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("sizes", [(4, 2), (2, 2), (0, 2), (2.0,), ("2",), (-1,)])
def test_sizes_that_there_cannot_be(sizes):
    with pytest.raises(ValueError, match=r"^sizes must be (a whole number of at least 1|in ascending order)"):
        losses.matryoshka(losses.triplet, sizes)


def test_bad_arguments_are_named():
    (x, y), nested = batch(), losses.matryoshka(losses.triplet, SIZES)
    with pytest.raises(
        ValueError, match=r"^sizes must be less than the 4 dimensions of the embeddings, got 4"
    ):
        nested(x[:, :4], y)
    with pytest.raises(ValueError, match=r"^embeddings must be a non-empty float array"):
        nested(x[0], y)
    with pytest.raises(ValueError, match=r"^labels must"):
        nested(x, y[:-1])
    with pytest.raises(ValueError, match=r"^references must be as wide"):
        nested(x, y, references=x[:, :5], reference_labels=y)
    proxies = losses.PARAMETERS["proxy_anchor"](KEY, CLASSES, D)
    for wrong in (proxies, (proxies,)):
        with pytest.raises(
            ValueError, match=r"^parameters must be a sequence of 3, one for each of \(2, 4, 6\)"
        ):
            losses.matryoshka(losses.proxy_anchor, SIZES)(x, y, wrong)
