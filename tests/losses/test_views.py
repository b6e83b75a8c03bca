"""Losses of two views: float64 loops, and the contract of the losses, which they keep without labels."""

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

B, D = 12, 5
NAMES = ["vicreg", "barlow_twins"]
CASES = [
    ("vicreg", {}),
    ("vicreg", {"invariance": 3.0, "variance": 10.0, "covariance": 4.0, "epsilon": 0.01}),
    ("barlow_twins", {}),
    ("barlow_twins", {"redundancy": 0.3}),
]


def batch(seed=0, size=B):
    """Two views that know of each other; some deviations are below 1, others above."""
    rng = np.random.default_rng(seed)
    both = rng.normal(size=(size, D)) @ rng.normal(size=(D, D)) / 2
    return tuple(jnp.asarray(both + 0.5 * rng.normal(size=(size, D)) + 0.3, jnp.float32) for _ in range(2))


def value_and_gradients(name, x, y, **options):
    loss = getattr(losses, name)
    return jax.value_and_grad(lambda x, y: loss(x, y, **options), argnums=(0, 1), has_aux=True)(x, y)


def looped(name, options):
    options = {("covariance_weight" if k == "covariance" else k): v for k, v in options.items()}
    return functools.partial(getattr(loops, name), **options)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_agrees_with_loop(name, options):
    ours = jax.jit(functools.partial(value_and_gradients, name, **options))
    edges = []
    for seed in range(6):
        views = batch(seed)
        want, gradients = loops.value_and_gradients(looped(name, options), *map(np.asarray, views))
        edges.append(want.edge)
        if want.edge < 1e-5:
            continue
        (value, aux), got = ours(*views)
        assert (int(aux["active"]), int(aux["valid"])) == (B, B)
        np.testing.assert_allclose(value, want.value, rtol=1e-5)
        for g, w in zip(got, gradients, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4 * abs(w).max())
    assert sum(edge >= 1e-5 for edge in edges) >= 4


@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case[1]])
def test_weights_have_gradients(name, options):
    views = batch()
    got = jax.grad(lambda numbers: getattr(losses, name)(*views, **numbers)[0])(options)
    copies = [np.asarray(v, np.float64)[None].astype(complex) for v in views]
    for key in options:
        changed = {**options, key: options[key] + 1j * loops.STEP}
        want = looped(name, changed)(*copies).value[0].imag / loops.STEP
        np.testing.assert_allclose(got[key], want, rtol=1e-4)


def test_barlow_twins_knows_no_scale_and_no_mean():
    x, y = batch()
    want, gradients = value_and_gradients("barlow_twins", x, y)
    for factor in (1e-20, 1e-4, 1e4, 1e20):
        (value, _), (of_x, of_y) = value_and_gradients("barlow_twins", factor * x, y)
        np.testing.assert_allclose(value, want[0], rtol=1e-5)
        np.testing.assert_allclose(factor * of_x, gradients[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(of_y, gradients[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(losses.barlow_twins(x + 3.0, y)[0], want[0], rtol=1e-5)


def test_dimensions_that_do_not_vary():
    x, y = batch()
    for constant in (0.0, 0.1, 1e20):
        (value, _), gradients = value_and_gradients("barlow_twins", x.at[:, 2].set(constant), y)
        rest = jnp.array([0, 1, 3, 4])
        want, _ = losses.barlow_twins(x[:, rest], y[:, rest])
        assert abs(float(value) - float(want) - 1) < 0.02, (
            "1 for itself, and a little for those of the other view"
        )
        assert all(np.isfinite(g).all() for g in gradients)
        assert not np.any(gradients[0][:, 2])


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient(name):
    """One compile serves: jit = eager, forms of the result, permutation, degenerate inputs."""
    compiles = 0

    @jax.jit
    def jitted(x, y):
        nonlocal compiles
        compiles += 1
        return value_and_gradients(name, x, y)

    x, y = batch()
    (value, aux), gradients = jitted(x, y)
    assert {a.dtype for a in (value, *aux.values(), *gradients)} == {jnp.dtype("float32")}
    assert value.shape == aux["active"].shape == aux["valid"].shape == ()
    close(getattr(losses, name)(x, y), (value, aux))
    order = np.random.default_rng(5).permutation(B)
    close(jitted(x[order], y[order]), ((value, aux), [g[order] for g in gradients]))
    for case, views in {
        "equal views": (x, x),
        "duplicates": (jnp.tile(x[:3], (4, 1)), y),
        "all equal": (jnp.ones((B, D)), y),
        "both collapsed": (jnp.ones((B, D)), jnp.zeros((B, D))),
        "some zero vectors": (x.at[:6].set(0.0), y),
        "scale 1e-4": (1e-4 * x, 1e-4 * y),
        "scale 1e4": (1e4 * x, 1e4 * y),
        "offset 1e3": (x + 1e3, y + 1e3),
    }.items():
        (loss, _), found = jitted(*views)
        assert np.isfinite(loss), case
        assert all(np.isfinite(g).all() for g in found), case
    assert compiles == 1


@pytest.mark.parametrize("name", NAMES)
def test_vmap_is_one_call_for_each(name):
    many = [jnp.stack(v) for v in zip(batch(0), batch(1), strict=True)]
    values = jax.vmap(lambda x, y: getattr(losses, name)(x, y)[0])(*many)
    want = [getattr(losses, name)(*batch(seed))[0] for seed in (0, 1)]
    np.testing.assert_allclose(values, want, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_signature_and_docstring(name):
    loss = getattr(losses, name)
    kinds = [p.kind for p in inspect.signature(loss).parameters.values()]
    assert kinds[:2] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2
    assert set(kinds[2:]) == {inspect.Parameter.KEYWORD_ONLY}
    doc = inspect.getdoc(loss)
    for part in (
        "Reduction:",
        "Args:",
        "Returns:",
        "Raises:",
        "Source:",
        *inspect.signature(loss).parameters,
    ):
        assert part in doc, part
    assert name not in losses.LOSSES, "which take labels"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [0, 1])
def test_bfloat16_inputs(name, place):
    views = list(batch())
    views[place] = views[place].astype(jnp.bfloat16)
    (value, _), gradients = value_and_gradients(name, *views)
    assert value.dtype == jnp.float32
    assert [g.dtype for g in gradients] == [v.dtype for v in views]
    want = getattr(losses, name)(*(v.astype(jnp.float32) for v in views))[0]
    np.testing.assert_allclose(value, want, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_float32_where_jax_has_64_bits(name):
    want = value_and_gradients(name, *batch())
    numbers = {k: v for k, v in getattr(losses, name).__kwdefaults__.items() if isinstance(v, float)}
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(v), jnp.float64) for v in batch()]
        options = {k: jnp.asarray(v, jnp.float64) for k, v in numbers.items()}
        (value, aux), gradients = jax.jit(functools.partial(value_and_gradients, name, **options))(*wide)
        assert {g.dtype for g in gradients} == {jnp.dtype("float64")}
    assert {a.dtype for a in (value, *aux.values())} == {jnp.dtype("float32")}
    close(((value, aux), gradients), want)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_traced_and_nothing_is_compiled_again(name):
    views, loss = batch(), getattr(losses, name)
    numbers = {k: v for k, v in loss.__kwdefaults__.items() if isinstance(v, float)}
    first = loss(*views, **numbers)[0]
    with jax.no_tracing():
        again = loss(*views, **{k: 2 * v for k, v in numbers.items()})[0]
    assert again != first


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_one_number_spoils_loss_and_gradients(name, place, number):
    run = jax.jit(functools.partial(value_and_gradients, name))
    for change in (lambda a: a.at[B - 1, 1].set(number), lambda a: a.at[:].set(number)):
        views = list(batch())
        views[place] = change(views[place])
        (value, _), gradients = run(*views)
        assert not np.isfinite(value)
        assert not any(np.isfinite(g).any() for g in gradients)


def test_what_float32_cannot_hold_spoils_the_loss():
    x, y = batch()
    for factor in (1e12, 1e20):
        (value, _), gradients = value_and_gradients("vicreg", factor * x, y)
        assert not np.isfinite(value)
        assert not any(np.isfinite(g).any() for g in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_image(name):
    (value, aux), gradients = value_and_gradients(name, *batch(size=1))
    assert np.isfinite(value)
    assert aux["valid"] == 1
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.usefixtures("hardly_optimized")
@pytest.mark.parametrize(("how", "name"), spread(HOW, NAMES))
def test_same_on_four_devices(name, how):
    """Statistics are those of all devices; gradients of weights before both views."""
    w = jnp.eye(D) + 0.1 * jax.random.normal(jax.random.key(3), (D, D))

    def step(w, x, y, axis_name):
        def loss(w):
            return getattr(losses, name)(x @ w, y @ w, axis_name=axis_name)

        out, gradient = jax.value_and_grad(loss, has_aux=True)(w)
        return out, gradient if axis_name is None else jax.lax.pmean(gradient, axis_name)

    got = over_devices(step, how, (w,), batch())
    close(got, jax.jit(functools.partial(step, axis_name=None))(w, *batch()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("devices", [1, 2])
def test_same_on_fewer_devices(name, devices):
    def step(x, y):
        out, gradients = value_and_gradients(name, x, y, axis_name="batch")
        return out, [g / jax.lax.axis_size("batch") for g in gradients]  # of a mean over devices

    mapped = jax.pmap(step, "batch", out_axes=(None, 0), devices=jax.devices()[:devices])
    out, gradients = mapped(*(v.reshape(devices, -1, D) for v in batch()))
    close((out, [g.reshape(B, D) for g in gradients]), value_and_gradients(name, *batch()))


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments_are_named(name):
    loss = getattr(losses, name)
    for message, change in (
        (r"^embeddings must be a non-empty float array", lambda x, y: (x[0], y)),
        (r"^embeddings must be a non-empty float array", lambda x, y: (x.astype(jnp.int32), y)),
        (r"^references must be a non-empty float array", lambda x, y: (x, y[:0])),
        (r"^references must have the shape of embeddings, \(12, 5\), got \(11, 5\)", lambda x, y: (x, y[1:])),
        (r"^references must have the shape of embeddings", lambda x, y: (x, y[:, 1:])),
    ):
        for call in (loss, jax.jit(loss)):
            with pytest.raises(ValueError, match=message):
                call(*change(*batch()))
    for number, default in loss.__kwdefaults__.items():
        if isinstance(default, float):
            with pytest.raises(ValueError, match=rf"^{number} must be a finite number .*, got -1"):
                loss(*batch(), **{number: -1})
