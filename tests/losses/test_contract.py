"""The contract of every function in losses.LOSSES; a new loss is covered by being in the dict."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxml import losses
from jaxml.losses.kernels.formulas import FORMULAS
from jaxml.losses.kernels.mining import MINING
from tests.spread import spread

B, D, CLASSES = 12, 4, 3
KEY = jax.random.key(3)
NAMES = list(losses.LOSSES)
MINED = [
    *((name, {}) for name in NAMES),
    *(("triplet", {"formula": f, "mining": "all"}) for f in FORMULAS if f != "hinge"),
    *(("triplet", {"formula": "hinge", "mining": m}) for m in MINING if m != "all"),
    *(("triplet", {"formula": "soft", "mining": m}) for m in ("semi_hard", "hardest", "distance_weighted")),
    ("triplet", {"formula": "squared_hinge", "swap": True}),
    ("margin", {"mining": "distance_weighted"}),
]
VARIANTS = [
    (name, o | ({"key": KEY} if MINING[o.get("mining", "all")].negatives.drawn else {})) for name, o in MINED
]


def label(variant):
    return "-".join([variant[0], *(str(v) for k, v in variant[1].items() if k != "key")])


def batch(seed=0, size=B):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, size - CLASSES)]).astype(np.int32)
    centre = rng.normal(size=(CLASSES, D))
    return jnp.asarray(centre[y] + 1.5 * rng.normal(size=(size, D)), jnp.float32), jnp.asarray(y)


def parameters(name):
    return (losses.PARAMETERS[name](KEY, CLASSES, D),) if name in losses.PARAMETERS else ()


def gradients(name, options, x, y, p):
    def loss(x, p):
        return losses.LOSSES[name](x, y, *p, **options)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, p)


def close(a, b, rtol=1e-5):
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(u, v, rtol=rtol, atol=rtol * max(float(jnp.max(jnp.abs(v))), 1e-3))


def test_dicts_and_names_agree():
    assert set(losses.PARAMETERS) <= set(losses.LOSSES)
    for name, loss in losses.LOSSES.items():
        assert loss.__name__ == name
        assert getattr(losses, name) is loss
        assert name in losses.__all__


@pytest.mark.parametrize("name", NAMES)
def test_signature_and_docstring(name):
    loss = losses.LOSSES[name]
    kinds = [p.kind for p in inspect.signature(loss).parameters.values()]
    positional = 3 if name in losses.PARAMETERS else 2
    assert kinds[:positional] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * positional
    assert set(kinds[positional:]) == {inspect.Parameter.KEYWORD_ONLY}
    doc = inspect.getdoc(loss)
    for part in ("Reduction:", "Args:", "Returns:", "Raises:", "Source:", "float [B, D]", "int [B]"):
        assert part in doc, part
    formula = doc.split("Reduction:")[0]
    assert any(sign in formula for sign in ("max(", "log(", "^", "sum_")), "no formula"
    for parameter in inspect.signature(loss).parameters:
        assert f"{parameter}:" in doc, parameter


def degenerate():
    x, y = batch()
    far = np.arange(B)
    return {
        "duplicates": (jnp.tile(x[:3], (4, 1)), y),
        "all equal": (jnp.ones((B, D)), y),
        "zero vectors": (jnp.zeros((B, D)), y),
        "some zero vectors": (x.at[:6].set(0.0), y),
        "one class only": (x, jnp.zeros(B, jnp.int32)),
        "scale 1e4": (1e4 * x, y),
        "scale 1e-4": (1e-4 * x, y),
        "offset 1e3": (x + 1e3, y),
        "all singletons": (x, jnp.asarray(far, jnp.int32)),
    }


def check_never_nan(name, run):
    for case, (x, y) in degenerate().items():
        if case == "all singletons" and name in losses.PARAMETERS:
            continue  # more labels than classes
        (loss, aux), grads = run(x, y)
        assert np.isfinite(loss), case
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads)), case
        mines = name in ("triplet", "lifted", "generalized_lifted", "n_pairs", "nt_xent")
        if mines and case in ("one class only", "all singletons"):
            assert loss == 0, case
            assert aux["active"] == aux["valid"] == 0, case
            assert not np.any(grads[0]), case


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_value_and_gradient(variant):
    """With one compilation: jit equals eager, form of the result, permutations, other labels, degenerate inputs."""
    name, options = variant
    (x, y), p = batch(), parameters(name)
    compiles = 0

    @jax.jit
    def jitted(x, y, p):
        nonlocal compiles
        compiles += 1
        return gradients(name, options, x, y, p)

    (loss, aux), grads = jitted(x, y, p)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    assert {"active", "valid"} <= set(aux)
    assert all(v.shape == () and v.dtype == jnp.float32 for v in aux.values())
    assert 0 < aux["active"] <= aux["valid"]
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert float(jnp.abs(grads[0]).max()) > 0

    close(losses.LOSSES[name](x, y, *p, **options), (loss, aux))  # eager

    if "key" not in options:  # draws depend on the place in the batch
        order = np.random.default_rng(5).permutation(B)
        (value, counts), (of_x, of_p) = jitted(x[order], y[order], p)
        close(((value, counts), of_x, of_p), ((loss, aux), grads[0][order], grads[1]))
    if name not in losses.PARAMETERS:  # there, labels are indices
        renamed = jnp.asarray([-5, 2**31 - 1, 7], jnp.int32)[y]
        got, want = jitted(x, renamed, p), ((loss, aux), grads)
        if "key" not in options:  # draws depend on the order of the labels
            close(got, want)

    other = batch(seed=9)
    close(jitted(*other, p)[0], losses.LOSSES[name](*other, *p, **options))
    check_never_nan(name, lambda x, y: jitted(x, y, p))
    assert compiles == 1


@pytest.mark.parametrize("name", spread(NAMES, of=3))
def test_bfloat16_inputs(name):
    (x, y), p, loss = batch(), parameters(name), losses.LOSSES[name]
    x = x.astype(jnp.bfloat16)
    (value, _), gradient = jax.value_and_grad(lambda x: loss(x, y, *p), has_aux=True)(x)
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(gradient, np.float32)).all()
    np.testing.assert_allclose(value, loss(x.astype(jnp.float32), y, *p)[0], rtol=1e-6)


@pytest.mark.usefixtures("hardly_optimized")
@pytest.mark.parametrize("variant", spread(VARIANTS, of=3, turn=1, label=label))
def test_float32_where_jax_has_64_bits(variant):
    name, options = variant
    (x, y), p = batch(), parameters(name)
    want = jax.jit(lambda x, p: gradients(name, options, x, y, p))(x, p)
    numbers = {k: v for k, v in losses.LOSSES[name].__kwdefaults__.items() if isinstance(v, float)}
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(x), jnp.float64)
        options = {**{k: jnp.asarray(v, jnp.float64) for k, v in numbers.items()}, **options}
        (value, aux), grads = jax.jit(lambda x, p: gradients(name, options, x, y, p))(wide, p)
        assert grads[0].dtype == jnp.float64
    assert {a.dtype for a in (value, *aux.values())} == {jnp.dtype("float32")}
    close(((value, aux), grads), want)


@pytest.mark.parametrize("name", spread(NAMES, of=2))
def test_numbers_are_traced(name):
    (x, y), p, loss = batch(), parameters(name), losses.LOSSES[name]
    defaults = {k: v.default for k, v in inspect.signature(loss).parameters.items()}
    numbers = {k: v for k, v in defaults.items() if isinstance(v, float)}
    compiles = 0

    @jax.jit
    def jitted(numbers):
        nonlocal compiles
        compiles += 1
        return loss(x, y, *p, **numbers)[0]

    for factor in (1.0, 1.1, 1.3):
        changed = {k: v * factor for k, v in numbers.items()}
        np.testing.assert_allclose(jitted(changed), loss(x, y, *p, **changed)[0], rtol=1e-5)
    assert compiles == 1


@pytest.mark.parametrize("name", NAMES)
def test_compiled_once_without_jit_too(name):
    (x, y), p, loss = batch(), parameters(name), losses.LOSSES[name]
    numbers = {k: v for k, v in loss.__kwdefaults__.items() if isinstance(v, float)}
    first = loss(x, y, *p, **numbers)[0]
    limited = ("balance", "quantile", "angle")  # shares, and one of up to a right angle
    others = {k: v * (1.5 if k in limited else 3.0) for k, v in numbers.items()}
    with jax.no_tracing():
        again = loss(x, y, *p, **others)[0]
    assert np.isfinite(again)
    assert not numbers or again != first


@functools.cache
def on_devices(place, n, how):
    """Loss, counts and gradients of weights before the loss, with the batch divided over n devices."""
    name, options = VARIANTS[place]
    (x, y), p = batch(), parameters(name)
    w = jnp.eye(D) + 0.1 * jax.random.normal(KEY, (D, D))
    axis_name = "batch" if n else None

    def step(w, p, x, y):
        def loss(w, p):
            block_size = 2 if n == 2 else None
            return losses.LOSSES[name](x @ w, y, *p, **options, axis_name=axis_name, block_size=block_size)

        (value, aux), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(w, p)
        return value, aux, jax.lax.pmean(grads, axis_name) if n else grads

    if how == "jit":
        return jax.jit(step)(w, p, x, y)
    if how == "pmap":
        devices = jax.devices()[:n]
        mapped = jax.pmap(step, "batch", in_axes=(None, None, 0, 0), out_axes=None, devices=devices)
        return mapped(w, p, x.reshape(n, -1, D), y.reshape(n, -1))
    mesh = Mesh(np.array(jax.devices()[:n]), ("batch",))
    specs = (P(), P(), P("batch"), P("batch"))
    return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=P()))(w, p, x, y)


@pytest.mark.usefixtures("hardly_optimized")
@pytest.mark.parametrize("place", spread(range(len(VARIANTS)), of=5, label=lambda i: label(VARIANTS[i])))
def test_same_on_two_devices(place):
    close(on_devices(place, 2, "pmap"), on_devices(place, 0, "jit"))


@pytest.mark.usefixtures("hardly_optimized")
@pytest.mark.parametrize(("formula", "how"), spread(["hinge", "soft"], ["pmap", "shard_map"]))
def test_triplets_on_four_devices(formula, how):
    options = {} if formula == "hinge" else {"formula": formula, "mining": "all"}
    place = VARIANTS.index(("triplet", options))
    for n in (1, 4):
        close(on_devices(place, n, how), on_devices(place, 0, "jit"))


@pytest.mark.parametrize("variant", spread(VARIANTS, of=3, turn=2, label=label))
def test_single_image(variant):
    name, options = variant
    x, y = (v[:1] for v in batch())
    (loss, aux), grads = jax.jit(lambda x, p: gradients(name, options, x, y, p))(x, parameters(name))
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    if name == "triplet":
        assert loss == aux["valid"] == 0
        assert not np.any(grads[0])


SMOOTHER = {
    "smooth_ap": {"temperature": 0.3},
    "recall_at_k": {"temperature": 0.3},
    "arcface": {"scale": 8.0},
    "subcenter_arcface": {"scale": 8.0},
    "cosface": {"scale": 8.0},
    "tuplet_margin": {"scale": 8.0},
    "histogram": {"num_bins": 2},
    "instance": {"scale": 8.0},
}
"""Options with which a loss hardly bends over the step that differences are taken with."""


@pytest.mark.parametrize(
    "name", spread([name for name in NAMES if name not in ("circle", "dynamic_soft_margin")], of=3)
)
def test_check_grads(name):
    """By differences, which two losses do not have: their weights are constants for the gradient."""
    from jax.test_util import check_grads

    (x, y), p, options = batch(seed=2), parameters(name), SMOOTHER.get(name, {})
    loss = jax.jit(lambda x, *p: losses.LOSSES[name](x, y, *p, **options)[0])
    check_grads(loss, (x, *p), order=1, modes=["rev"], eps=1e-3, atol=5e-2, rtol=5e-2)
