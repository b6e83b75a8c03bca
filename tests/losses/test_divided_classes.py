"""Classes divided over devices, and classes that are drawn: the loss, its gradients and its memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml import losses
from jaxml.losses.kernels.divided_classes import drawn
from tests import loops
from tests.spread import spread

B, D, CLASSES, AXIS = 16, 4, 20, "batch"
NAMES = ["normalized_softmax", "cosface", "arcface", "subcenter_arcface", "sphereface"]
MARGINS = {"normalized_softmax": {}, "sphereface": {"margin": 2.0}}
HOW = ["pmap", "shard_map", "shard_map, unchecked"]
KEY = jax.random.key(5)


def numbers(name):
    return {"scale": 6.0, **MARGINS.get(name, {"margin": 0.4})}


def arrays(name, seed=0):
    """Weights before the loss; embeddings, labels, proxies and class weights, whose rows are divided."""
    rng = np.random.default_rng(seed)
    p = losses.PARAMETERS[name](jax.random.key(seed), CLASSES, D) * 1.1
    w, x, weights = (
        np.eye(D) + 0.2 * rng.normal(size=(D, D)),
        rng.normal(size=(B, D)),
        rng.uniform(0.5, 2, CLASSES),
    )
    w, x, weights = (jnp.asarray(a, jnp.float32) for a in (w, x, weights))
    return w, (x, jnp.asarray(rng.integers(0, CLASSES, B), jnp.int32), p, weights)


def on_devices(function, n, how, whole, divided):
    """function(*whole, *divided) -> (what is equal on all devices, what each has its own rows of), on n devices."""
    devices = jax.devices()[:n]
    if how == "pmap":
        axes = (None,) * len(whole) + (0,) * len(divided)
        mapped = jax.pmap(function, AXIS, in_axes=axes, out_axes=(None, 0), devices=devices)
        equal, own = mapped(*whole, *(d.reshape(n, -1, *d.shape[1:]) for d in divided))
        return equal, jax.tree.map(lambda g: g.reshape(-1, *g.shape[2:]), own)
    specs = (P(),) * len(whole) + (P(AXIS),) * len(divided)
    mapped = jax.shard_map(
        function,
        mesh=Mesh(np.array(devices), (AXIS,)),
        in_specs=specs,
        out_specs=(P(), P(AXIS)),
        check_vma=how == "shard_map",
    )
    return jax.jit(mapped)(*whole, *divided)


def step(name, w, numbers, x, y, p, weights, *, divided=None, **options):
    """((Loss and counts, gradients that are averaged), gradients that stay on their device)."""

    def loss(w, numbers, p, weights):
        embeddings = x @ w
        return getattr(losses, name)(
            embeddings, y, p, class_weights=weights, divided=divided, **numbers, **options
        )

    gradient = jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
    out, (*averaged, of_p, of_weights) = gradient(w, numbers, p, weights)
    if divided is not None:
        averaged = jax.lax.pmean(averaged, AXIS)
    return (out, averaged), (of_p, of_weights)


@functools.cache
def undivided(name):
    w, rest = arrays(name)
    return jax.jit(functools.partial(step, name))(w, numbers(name), *rest)


@functools.cache
def divided(name, n, how):
    """In blocks of three classes, of which the last one is not full."""
    w, rest = arrays(name)
    options = {"divided": losses.DividedClasses(), "axis_name": AXIS, "block_size": 3}
    return on_devices(functools.partial(step, name, **options), n, how, (w, numbers(name)), rest)


def close(got, want):
    for g, v in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, v, rtol=1e-5, atol=1e-5 * max(float(np.abs(v).max()), 1e-3))


@pytest.mark.usefixtures("hardly_optimized")
@pytest.mark.parametrize(("name", "how"), spread(NAMES, HOW))
def test_same_as_undivided(name, how):
    close(divided(name, 4, how), undivided(name))


@pytest.mark.usefixtures("hardly_optimized")
@pytest.mark.parametrize(
    ("n", "how"), [(1, "pmap"), (2, "pmap"), (1, "shard_map"), (2, "shard_map, unchecked")]
)
def test_on_fewer_devices(n, how):
    close(divided("arcface", n, how), undivided("arcface"))


@pytest.mark.usefixtures("hardly_optimized")
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_loop(name):
    w, (x, y, p, weights) = arrays(name)
    embeddings = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    want, (of_x, of_p) = loops.value_and_gradients(
        lambda x, p: getattr(loops, name)(
            x, p, y.tolist(), class_weights=np.asarray(weights), **numbers(name)
        ),
        embeddings,
        np.asarray(p),
    )
    assert want.edge > 1e-5
    (((value, aux), (of_w, _)), (found, _)) = divided(name, 4, "shard_map")
    assert (int(aux["active"]), int(aux["valid"])) == (want.active, want.valid)
    close((value, of_w, found), (want.value, np.asarray(x, np.float64).T @ of_x, of_p))


def test_gradients_from_outside_of_shard_map():
    _, (x, y, p, _) = arrays("arcface")
    loss = functools.partial(losses.arcface, scale=8.0)
    local = functools.partial(loss, axis_name=AXIS, divided=losses.DividedClasses())
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    mapped = jax.shard_map(local, mesh=mesh, in_specs=P(AXIS), out_specs=P())
    value_and_grad = functools.partial(jax.value_and_grad, argnums=(0, 2), has_aux=True)
    close(jax.jit(value_and_grad(mapped))(x, y, p), value_and_grad(loss)(x, y, p))


def test_images_without_a_class_are_left_out():
    w, (x, y, p, weights) = arrays("cosface")
    y = y.at[3].set(-1).at[9].set(CLASSES)
    run = functools.partial(step, "cosface")
    options = {"divided": losses.DividedClasses(), "axis_name": AXIS}
    got = on_devices(
        functools.partial(run, **options), 4, "shard_map", (w, numbers("cosface")), (x, y, p, weights)
    )
    want = jax.jit(run)(w, numbers("cosface"), x, y, p, weights)
    assert want[0][0][1]["valid"] == B - 2
    close(got, want)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_number_spoils_all_devices(value):
    w, (x, y, p, weights) = arrays("arcface")
    options = {"divided": losses.DividedClasses(), "axis_name": AXIS}
    run = functools.partial(step, "arcface", **options)
    for spoiled in ((x, y, p.at[-1, 0].set(value), weights), (x.at[-1, 0].set(value), y, p, weights)):
        ((loss, _), (of_w, _)), (of_p, _) = on_devices(run, 4, "pmap", (w, numbers("arcface")), spoiled)
        assert not np.isfinite(loss)
        assert not np.isfinite(of_w).any()
        assert not np.isfinite(of_p).any()


@pytest.mark.usefixtures("hardly_optimized")
@pytest.mark.parametrize(("name", "how"), spread(["cosface", "subcenter_arcface"], HOW))
def test_drawn_classes(name, how):
    """The loss and its gradients are those of the drawn classes alone, which the gradient shows."""
    w, (x, _, p, weights) = arrays(name)
    y = jnp.asarray(np.random.default_rng(1).choice([1, 2, 3, 8, 19], B))  # of the third device none
    rate, sets = 0.5, []
    run = functools.partial(step, name, axis_name=AXIS, block_size=3)
    for seed in range(3):

        def sampled(key, *args):
            return run(*args, divided=losses.DividedClasses(rate, key))

        whole, rows = (jax.random.key(seed), w, numbers(name)), (x, y, p, weights)
        (out, averaged), (of_p, of_weights) = on_devices(sampled, 4, how, whole, rows)
        found = np.flatnonzero(np.abs(of_p).reshape(CLASSES, -1).max(1) > 0)
        sets.append(found)
        assert set(y.tolist()) <= set(found.tolist())
        places = np.arange(CLASSES).reshape(4, -1)
        needed = np.isin(places, y).sum(1)
        assert np.isin(places, found).sum(1).tolist() == (needed + np.round(rate * (5 - needed))).tolist()
        of_these = jnp.asarray(np.searchsorted(found, y))
        (want, want_averaged), (want_of_p, want_of_weights) = jax.jit(functools.partial(step, name))(
            w, numbers(name), x, of_these, p[found], weights[found]
        )
        close((out, averaged, of_p[found]), (want, want_averaged, want_of_p))
        close(of_weights[found], want_of_weights)
    assert len({tuple(s) for s in sets}) == 3


def test_every_other_class_is_drawn_equally_often():
    draws, classes, rate = 400, 30, 0.4
    place = jnp.asarray(
        [[4, 4, 7, classes], [classes] * 4]
    )  # the second device holds none of the images' classes

    def frequencies(place):
        keys = jax.random.split(KEY, draws)
        columns = jax.vmap(lambda key: drawn(place, classes, rate, key, AXIS))(keys)
        ordered = jnp.sort(columns, axis=1)
        again = jnp.any((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] < classes))
        return jnp.bincount(columns.reshape(-1), length=classes + 1)[:classes] / draws, again, columns

    found, again, columns = jax.pmap(frequencies, AXIS, devices=jax.devices()[:2])(place)
    assert not again.any()
    for needed, share in zip(([4, 7], []), found, strict=True):
        others = np.setdiff1d(np.arange(classes), needed)
        assert (share[np.array(needed, int)] == 1).all()
        expected = np.round(rate * len(others)) / len(others)
        np.testing.assert_allclose(share[others].mean(), expected, rtol=1e-6)
        # Five standard deviations of a share of so many draws.
        np.testing.assert_allclose(share[others], expected, atol=5 * np.sqrt(0.25 / draws))
    assert not np.array_equal(columns[0], columns[1])


def test_few_are_drawn_beside_many_images():
    w, (x, y, p, weights) = arrays("cosface")
    sampled = losses.DividedClasses(1e-3, KEY)
    run = functools.partial(step, "cosface", axis_name=AXIS, divided=sampled)
    _, (of_p, _) = on_devices(run, 4, "pmap", (w, numbers("cosface")), (x, y, p, weights))
    assert np.array_equal(np.flatnonzero(np.abs(of_p).max(1) > 0), np.unique(y))


def test_bad_arguments_are_named():
    _, (x, y, p, _) = arrays("arcface")

    def call(rate=1.0, key=None, labels=y, **options):
        options = {"axis_name": AXIS, "divided": losses.DividedClasses(rate, key), **options}
        jax.vmap(
            lambda x: losses.arcface(x, labels, p, **options), axis_name=AXIS, axis_size=4, in_axes=None
        )(x)

    with pytest.raises(ValueError, match=r"^divided must be losses.DividedClasses\(...\) or None, got True"):
        call(divided=True)
    with pytest.raises(ValueError, match=r"^axis_name must be given"):
        call(axis_name=None)
    for rate in (0, -0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"^rate must be a finite number above 0 and of at most 1, got"):
            call(rate=rate)
    with pytest.raises(ValueError, match=r"^rate must be a number that is known"):
        jax.jit(lambda rate: call(rate=rate, key=KEY))(0.5)
    with pytest.raises(ValueError, match=r"^key must be given \(jax.random.key\) for rate 0.5"):
        call(rate=0.5)
    with pytest.raises(ValueError, match=r"^labels must be in 0\.\.79, the classes of proxies, got .*80"):
        call(labels=np.full(B, 4 * CLASSES))


def sgd(classes, width, batch, block_size=None):
    """A compiled step on four devices, of (proxies, embeddings, labels), and how all three are divided."""
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    rows = NamedSharding(mesh, P(AXIS))

    def step(p, x, y):
        def loss(p, x):
            options = {"divided": losses.DividedClasses(), "block_size": block_size}
            return losses.arcface(x, y, p, axis_name=AXIS, **options)[0]

        value, (of_p, of_x) = jax.value_and_grad(loss, argnums=(0, 1))(p, x)
        return value, p - 0.1 * of_p, of_x

    specs = P(AXIS), P(AXIS), P(AXIS)
    mapped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=(P(), P(AXIS), P(AXIS)))
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
        for shape, dtype in (((classes, width), "float32"), ((batch, width), "float32"), ((batch,), "int32"))
    ]
    return jax.jit(mapped, donate_argnums=0).lower(*shapes).compile(), rows


def check_memory(compiled, classes, width, batch):
    account = compiled.memory_analysis()
    used = (
        account.argument_size_in_bytes
        + account.output_size_in_bytes
        - account.alias_size_in_bytes
        + account.temp_size_in_bytes
    )
    # Proxies and their gradient are divided; the batch, its gradient too, is on every device.
    share = 4 * width * (2 * classes // 4 + 2 * batch)
    print(f"{used / 2**20:.1f} MiB on each device, {used / share:.3f} of its share")
    assert used < 1.3 * share


def test_memory_is_that_of_the_share():
    size = 2**17, 64, 32
    compiled, _ = sgd(*size, block_size=256)
    check_memory(compiled, *size)


@pytest.mark.slow
def test_a_million_classes():
    classes, width, batch = size = 1_000_000, 128, 64
    compiled, rows = sgd(*size)
    check_memory(compiled, *size)
    init = functools.partial(losses.PARAMETERS["arcface"], num_classes=classes, feature_size=width)
    p = jax.jit(init, out_shardings=rows)(KEY)
    x, y = p[:: classes // batch][:batch] + 0.05, jnp.arange(batch) * (classes // batch)
    before = np.asarray(p[np.asarray(y)])
    value, p, of_x = compiled(p, jax.device_put(x, rows), jax.device_put(y, rows))
    assert np.isfinite(value)
    assert np.isfinite(of_x).all()
    assert np.abs(np.asarray(p[np.asarray(y)]) - before).max() > 0
