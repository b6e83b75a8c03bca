"""A batch divided over four devices, in every way that jax offers, gives the result of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml import losses
from tests.losses.test_contract import KEY, NAMES, VARIANTS, B, D, batch, label, parameters
from tests.spread import spread

pytestmark = pytest.mark.usefixtures("hardly_optimized")

N = 4
AXIS = "batch"
HOW = ["explicit", "auto", "pmap", "shard_map", "shard_map, unchecked"]
CASES = [
    *(v for v in VARIANTS if v[1] == {} or "distance_weighted" in v[1].values()),
    *(("triplet", {"mining": m}) for m in ("hardest", "local_class")),
    ("triplet", {"formula": "soft"}),
    ("contrastive", {"power": 1}),
    ("input_triplets", {"swap": True}),
]
SCALES = {"margin": 0.7, "temperature": 0.4}


def mesh_of(kind, shape=(N,), names=(AXIS,)):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))


def weights():
    return jnp.eye(D) + 0.1 * jax.random.normal(KEY, (D, D))


def close(got, want):
    """Values and counts to 1e-6, gradients to 1e-5 of the largest."""
    (value, aux), gradients = got
    (want_value, want_aux), want_gradients = want
    np.testing.assert_allclose(value, want_value, rtol=1e-6, atol=1e-7)
    assert aux.keys() == want_aux.keys()
    for key in ("active", "valid"):
        assert float(aux[key]) == float(want_aux[key]), key
    for g, w in zip(jax.tree.leaves(gradients), jax.tree.leaves(want_gradients), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5 * max(float(jnp.abs(w).max()), 1e-3))


def over_devices(function, how, whole, divided):
    """function(*whole, *divided, axis_name) with the divided arguments' rows on four devices."""
    if how == "pmap":
        axes = (None,) * len(whole) + (0,) * len(divided)
        mapped = jax.pmap(
            lambda *a: function(*a, AXIS), AXIS, in_axes=axes, out_axes=None, devices=jax.devices()[:N]
        )
        return mapped(*whole, *(d.reshape(N, -1, *d.shape[1:]) for d in divided))
    mesh = mesh_of(AxisType.Auto if how == "auto" else AxisType.Explicit)
    specs = (P(),) * len(whole) + (P(AXIS),) * len(divided)
    put = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip((*whole, *divided), specs, strict=True)]
    if how in ("explicit", "auto"):
        return jax.jit(lambda *a: function(*a, None))(*put)
    mapped = jax.shard_map(
        lambda *a: function(*a, AXIS),
        mesh=mesh,
        in_specs=specs,
        out_specs=P(),
        check_vma=how == "shard_map",
    )
    return jax.jit(mapped)(*put)


def step(name, options, w, p, numbers, x, y, axis_name):
    """Loss and counts, and gradients of what the embeddings come from, of parameters and of hyper-parameters."""

    def loss(w, p, numbers):
        return getattr(losses, name)(x @ w, y, *p, **options, **numbers, axis_name=axis_name)

    out, gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(w, p, numbers)
    return out, gradients if axis_name is None else jax.lax.pmean(gradients, axis_name)


def arguments(name, options):
    taken = getattr(losses, name).__kwdefaults__
    numbers = {k: jnp.float32(v) for k, v in SCALES.items() if k in taken}
    p = parameters(name) if name in losses.LOSSES else ()
    return (weights(), p, numbers), batch(size=2 * N * 3 if name == "input_triplets" else B)


@functools.cache
def on_one_device(case):
    name, options = CASES[case]
    whole, divided = arguments(name, options)
    return jax.jit(functools.partial(step, name, options, axis_name=None))(*whole, *divided)


@pytest.mark.parametrize(
    ("case", "how"), spread(range(len(CASES)), HOW, label=lambda case: label(CASES[case]))
)
def test_same_as_on_one_device(case, how):
    name, options = CASES[case]
    got = over_devices(functools.partial(step, name, options), how, *arguments(name, options))
    want = on_one_device(case)
    assert want[0][1]["active"] > 0
    close(got, want)


def test_every_loss_is_divided():
    assert {name for name, _ in CASES} == {*NAMES, "input_triplets"}


def memory_step(name, state, w, p, x, y, axis_name):
    def total(w, p):
        return losses.cross_batch(getattr(losses, name), x @ w, y, state, *p, weight=0.7, axis_name=axis_name)

    out, gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(w, p)
    state = losses.push(state, x @ w, y, axis_name=axis_name)
    return (out, gradients if axis_name is None else jax.lax.pmean(gradients, axis_name)), state


@functools.cache
def memory_on_one_device(name):
    state = losses.push(losses.memory(B + 5, D), *batch(seed=1))
    return jax.jit(functools.partial(memory_step, name, axis_name=None))(
        state, weights(), parameters(name), *batch()
    )


@pytest.mark.parametrize(("name", "how"), spread(["triplet", "lifted", "contrastive", "margin"], HOW))
def test_memory(name, how):
    state = losses.push(losses.memory(B + 5, D), *batch(seed=1))
    whole = state, weights(), parameters(name)
    got, after = over_devices(functools.partial(memory_step, name), how, whole, batch())
    want, want_after = memory_on_one_device(name)
    assert want[0][1]["memory_active"] > 0
    close(got, want)
    np.testing.assert_allclose(after.embeddings, want_after.embeddings, atol=1e-6)
    for ours, theirs in zip(after[1:], want_after[1:], strict=True):
        assert np.array_equal(ours, theirs)


SPECS = {
    "batch over both axes": (P(("data", "model")), P(("data", "model")), P()),
    "batch and embedding": (P("data", "model"), P("data"), P("model")),
    "embedding only": (P(None, "model"), P(), P(None)),
    "labels only": (P(), P("model"), P()),
    "the second axis": (P("model"), None, P("data")),
}


@pytest.mark.parametrize(
    ("name", "specs"), spread(["triplet", "contrastive", "lifted", "proxy_anchor", "soft_triple"], SPECS)
)
def test_two_explicit_axes(name, specs):
    """Axes that divide other than the batch make no difference; nor does it matter where the labels are."""
    mesh = mesh_of(AxisType.Explicit, (2, 2), ("data", "model"))
    # As many classes again as there are, lest two devices could not divide the parameters.
    (x, y), p = batch(), tuple(jnp.concatenate([q, q + 0.1]) for q in parameters(name))

    def gradients(x, p, y):
        loss = lambda x, p: getattr(losses, name)(x, y, *p)  # noqa: E731
        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, p)

    want = jax.jit(gradients)(x, p, y)
    arrays = [x, y, p[0] if p else jnp.float32(0)]
    x, y, q = (
        a if spec is None or not a.ndim else jax.device_put(a, NamedSharding(mesh, spec))
        for a, spec in zip(arrays, SPECS[specs], strict=True)
    )
    got = jax.jit(gradients)(x, (q,) if p else (), y)
    close(got, want)
    assert got[1][0].sharding.spec == jax.typeof(x).sharding.spec


def test_without_jit_and_in_a_mesh_context():
    mesh = mesh_of(AxisType.Explicit)
    (x, y), want = batch(), losses.multi_similarity(*batch())
    put = functools.partial(jax.device_put, device=NamedSharding(mesh, P(AXIS)))
    x, y = put(x), put(y)
    gradient = jax.grad(lambda x: losses.multi_similarity(x, y)[0])
    want_gradient = jax.grad(lambda x: losses.multi_similarity(x, batch()[1])[0])(batch()[0])
    for got in (losses.multi_similarity(x, y), losses.multi_similarity(x, np.asarray(y))):
        np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
        assert got[1] == want[1]
    with jax.set_mesh(mesh):  # without which jax itself has no gradient of a sum, but under jit
        np.testing.assert_allclose(losses.multi_similarity(x, y)[0], want[0], rtol=1e-6)
        np.testing.assert_allclose(gradient(x), want_gradient, rtol=1e-5, atol=1e-6)
    state = losses.push(losses.memory(B, D), x, y)
    assert np.array_equal(state.embeddings, batch()[0])
    value, _ = losses.triplet_distances(x[:, 0], x[:, 1])
    np.testing.assert_allclose(value, losses.triplet_distances(*batch()[0][:, :2].T)[0], rtol=1e-6)


def test_an_explicit_axis_beside_a_mapped_one():
    """shard_map over one axis of a mesh whose other axis stays Explicit."""
    mesh = mesh_of(AxisType.Explicit, (2, 2), ("data", "model"))
    x, y = batch()

    def loss(x, y):
        return losses.contrastive(x, y, axis_name="data")

    want = losses.contrastive(x, y)
    x = jax.device_put(x, NamedSharding(mesh, P("data", "model")))
    y = jax.device_put(y, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        mapped = jax.shard_map(loss, in_specs=P("data"), out_specs=P(), axis_names={"data"})
        got = jax.jit(mapped)(x, y)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    assert got[1] == want[1]


def test_labels_beyond_32_bits():
    mesh = mesh_of(AxisType.Explicit)
    (x, y), want = batch(), losses.contrastive(*batch())
    wide = np.asarray(y).astype(np.int64) * 2**33
    put = functools.partial(jax.device_put, device=NamedSharding(mesh, P(AXIS)))
    with jax.enable_x64(True):
        for labels in (wide, put(jnp.asarray(wide))):
            got = losses.contrastive(put(x), labels)
            np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
            assert {k: float(v) for k, v in got[1].items()} == {k: float(v) for k, v in want[1].items()}


def test_triplets_that_a_division_would_cut_are_refused():
    put = functools.partial(jax.device_put, device=NamedSharding(mesh_of(AxisType.Explicit), P(AXIS)))
    with pytest.raises(ValueError, match="embeddings have 2 rows on each device, which are no triplets"):
        losses.input_triplets(*map(put, batch(size=2 * N)))
