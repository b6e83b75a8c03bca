"""The relaxed contrastive loss: its float64 loop, and the contract of the losses, which it keeps without labels."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses
from tests import loops
from tests.losses.test_contract import close
from tests.losses.test_sharding import HOW, over_devices
from tests.spread import spread

B, D, T = 12, 4, 7
OPTIONS = [{}, {"delta": 0.6, "sigma": 3.0}, {"delta": 1.7, "sigma": 0.3}]


def batch(seed=0, size=B):
    """Embeddings [B, D], and a wider teacher's [B, T] that know some of them; lengths of about 1."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, D)) / 2
    t = (x @ rng.normal(size=(D, T)) + rng.normal(size=(size, T))) / 4
    return jnp.asarray(x, jnp.float32), jnp.asarray(t, jnp.float32)


def value_and_gradient(x, t, **options):
    return jax.value_and_grad(lambda x: losses.relaxed_contrastive(x, t, **options), has_aux=True)(x)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("block_size", [None, 5])
def test_agrees_with_loop(options, block_size):
    ours = jax.jit(functools.partial(value_and_gradient, block_size=block_size, **options))
    compared = 0
    for seed in range(8):
        x, t = batch(seed)
        reference = functools.partial(loops.relaxed_contrastive, teacher=np.asarray(t), **options)
        want, (gradient,) = loops.value_and_gradients(reference, np.asarray(x))
        if want.edge < 1e-5:
            continue
        compared += 1
        (value, aux), got = ours(x, t)
        assert (int(aux["active"]), int(aux["valid"])) == (want.active, want.valid) == (132, 132)
        np.testing.assert_allclose(value, want.value, rtol=1e-5)
        np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-5 * abs(gradient).max())
    assert compared >= 4


@pytest.mark.parametrize("name", ["delta", "sigma"])
def test_hyperparameters_have_gradients(name):
    x, t = batch()
    numbers = {"delta": 0.8, "sigma": 0.7}
    got = jax.grad(lambda n: losses.relaxed_contrastive(x, t, **n)[0])(numbers)[name]
    copy = np.asarray(x, np.float64)[None].astype(complex)
    step = 1e-6  # of the real number, for the loop decides by it
    values = [
        loops.relaxed_contrastive(copy, np.asarray(t), **{**numbers, name: numbers[name] + h}).value[0].real
        for h in (step, -step)
    ]
    np.testing.assert_allclose(got, (values[0] - values[1]) / (2 * step), rtol=1e-4)


def test_the_scale_of_the_embeddings_makes_no_difference():
    """Which the gradient says only if the mean distance is differentiated as well."""
    x, t = batch()
    (value, _), gradient = value_and_gradient(x, t)
    for factor in (1e-4, 30.0, 1e4):
        (scaled, _), of_scaled = value_and_gradient(factor * x, t)
        np.testing.assert_allclose(scaled, value, rtol=1e-5)
        np.testing.assert_allclose(factor * of_scaled, gradient, rtol=1e-4, atol=1e-5)
    assert abs(jnp.sum(x * gradient)) < 1e-5 * jnp.sum(jnp.abs(x * gradient))


def test_the_teacher_has_no_gradient_and_the_network_can_become_like_it():
    x, t = batch()
    assert not np.any(jax.grad(lambda t: losses.relaxed_contrastive(x, t)[0])(t))
    start = float(losses.relaxed_contrastive(x, t)[0])
    step = jax.jit(lambda x: x - 0.05 * value_and_gradient(x, t)[1])
    for _ in range(200):
        x = step(x)

    def distances(z):
        z = np.asarray(z, np.float64)
        return np.linalg.norm(z[:, None] - z[None], axis=-1)[np.triu_indices(B, 1)]

    assert losses.relaxed_contrastive(x, t)[0] < 0.9 * start
    assert np.corrcoef(distances(x), distances(t))[0, 1] > 0.9


def degenerate():
    x, t = batch()
    return {
        "duplicates": (jnp.tile(x[:3], (4, 1)), t),
        "all equal": (jnp.ones((B, D)), t),
        "zero vectors": (jnp.zeros((B, D)), t),
        "some zero vectors": (x.at[:6].set(0.0), t),
        "scale 1e-4": (1e-4 * x, t),
        "scale 1e4": (1e4 * x, t),
        "offset 1e3": (x + 1e3, t),
        "teacher collapsed": (x, jnp.ones((B, T))),
        "teacher far apart": (x, 1e6 * t),
        "both collapsed": (jnp.zeros((B, D)), jnp.zeros((B, T))),
    }


def test_value_and_gradient():
    """One compile serves: jit = eager, forms of the result, permutation, degenerate inputs."""
    compiles = 0

    @jax.jit
    def jitted(x, t):
        nonlocal compiles
        compiles += 1
        return value_and_gradient(x, t)

    x, t = batch()
    (value, aux), gradient = jitted(x, t)
    assert {a.dtype for a in (value, *aux.values(), gradient)} == {jnp.dtype("float32")}
    assert value.shape == aux["active"].shape == aux["valid"].shape == ()
    close(losses.relaxed_contrastive(x, t), (value, aux))
    order = np.random.default_rng(5).permutation(B)
    close(jitted(x[order], t[order]), ((value, aux), gradient[order]))
    for case, (some, teacher) in degenerate().items():
        (loss, counts), found = jitted(some, teacher)
        assert np.isfinite(loss), case
        assert np.isfinite(found).all(), case
        assert counts["active"] <= counts["valid"] == B * (B - 1), case
    assert compiles == 1


def test_signature_and_docstring():
    kinds = [p.kind for p in inspect.signature(losses.relaxed_contrastive).parameters.values()]
    assert kinds[:2] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2
    assert set(kinds[2:]) == {inspect.Parameter.KEYWORD_ONLY}
    doc = inspect.getdoc(losses.relaxed_contrastive)
    for part in (
        "Reduction:",
        "Returns:",
        "Raises:",
        "Source:",
        *inspect.signature(losses.relaxed_contrastive).parameters,
    ):
        assert part in doc, part
    assert "relaxed_contrastive" not in losses.LOSSES, "which take labels"


@pytest.mark.parametrize("place", [0, 1])
def test_bfloat16_inputs(place):
    arrays = list(batch())
    arrays[place] = arrays[place].astype(jnp.bfloat16)
    (value, _), gradient = value_and_gradient(*arrays)
    assert value.dtype == jnp.float32
    assert gradient.dtype == arrays[0].dtype
    want = losses.relaxed_contrastive(*(a.astype(jnp.float32) for a in arrays))[0]
    np.testing.assert_allclose(value, want, rtol=1e-6)


def test_float32_where_jax_has_64_bits():
    want = value_and_gradient(*batch())
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a), jnp.float64) for a in batch()]
        (value, aux), gradient = jax.jit(value_and_gradient)(*wide)
        assert gradient.dtype == jnp.float64
    assert {a.dtype for a in (value, *aux.values())} == {jnp.dtype("float32")}
    close(((value, aux), gradient), want)


def test_numbers_are_traced_and_nothing_is_compiled_again():
    x, t = batch()
    first = losses.relaxed_contrastive(x, t)[0]
    with jax.no_tracing():
        again = losses.relaxed_contrastive(x, t, delta=0.5, sigma=2.0)[0]
    assert again != first
    traced = jax.jit(lambda delta, sigma: losses.relaxed_contrastive(x, t, delta=delta, sigma=sigma)[0])
    np.testing.assert_allclose(traced(0.5, 2.0), again, rtol=1e-6)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_one_number_spoils_loss_and_gradient(place, number):
    run = jax.jit(functools.partial(value_and_gradient, block_size=5))
    for change in (lambda a: a.at[B - 1, 1].set(number), lambda a: a.at[:].set(number)):
        arrays = list(batch())
        arrays[place] = change(arrays[place])
        (value, _), gradient = run(*arrays)
        assert not np.isfinite(value)
        assert not np.isfinite(gradient).any()


@pytest.mark.parametrize("place", [0, 1])
def test_distances_beyond_float32_spoil_the_loss(place):
    arrays = list(batch())
    arrays[place] = 1e20 * arrays[place]
    (value, _), gradient = value_and_gradient(*arrays)
    assert not np.isfinite(value)
    assert not np.isfinite(gradient).any()


def test_a_single_image_has_no_pair():
    (value, aux), gradient = value_and_gradient(*batch(size=1))
    assert value == aux["valid"] == 0
    assert not np.any(gradient)


@pytest.mark.usefixtures("hardly_optimized")
@pytest.mark.parametrize(("how", "block_size"), spread(HOW, [None, 2]))
def test_same_on_four_devices(how, block_size):
    """Gradients of weights before the embeddings; the teacher's are divided as the batch is."""
    w = jnp.eye(D) + 0.1 * jax.random.normal(jax.random.key(3), (D, D))

    def step(w, x, t, axis_name):
        def loss(w):
            return losses.relaxed_contrastive(x @ w, t, delta=1.2, block_size=block_size, axis_name=axis_name)

        out, gradient = jax.value_and_grad(loss, has_aux=True)(w)
        return out, gradient if axis_name is None else jax.lax.pmean(gradient, axis_name)

    got = over_devices(step, how, (w,), batch())
    close(got, jax.jit(functools.partial(step, axis_name=None))(w, *batch()))


@pytest.mark.parametrize("devices", [1, 2])
def test_same_on_fewer_devices(devices):
    x, t = batch()

    def step(x, t):
        (value, aux), gradient = value_and_gradient(x, t, axis_name="batch")
        return (value, aux), gradient / jax.lax.axis_size("batch")  # of a mean over devices

    mapped = jax.pmap(step, "batch", out_axes=(None, 0), devices=jax.devices()[:devices])
    out, gradient = mapped(*(a.reshape(devices, -1, a.shape[1]) for a in (x, t)))
    close((out, gradient.reshape(B, D)), value_and_gradient(x, t))


@pytest.mark.parametrize(
    ("message", "change", "options"),
    [
        ("^embeddings must be a non-empty float array", lambda x, t: (x[0], t), {}),
        ("^embeddings must be a non-empty float array", lambda x, t: (x.astype(jnp.int32), t), {}),
        ("^teacher_embeddings must be a non-empty float array", lambda x, t: (x, t[:, 0]), {}),
        (
            "^teacher_embeddings must have a row for each of the 12 embeddings, got 11",
            lambda x, t: (x, t[1:]),
            {},
        ),
        ("^delta must be a finite number above 0, got 0", lambda x, t: (x, t), {"delta": 0}),
        ("^sigma must be a finite number above 0, got -1", lambda x, t: (x, t), {"sigma": -1}),
        ("^block_size must be a positive integer", lambda x, t: (x, t), {"block_size": 0}),
    ],
)
def test_bad_arguments_are_named(message, change, options):
    loss = functools.partial(losses.relaxed_contrastive, **options)
    for call in (loss, jax.jit(loss)):
        with pytest.raises(ValueError, match=message):
            call(*change(*batch()))
