"""Labels of every integer type: losses agree with plain loops over the same numbers."""

import inspect
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxml import losses
from jaxml.losses.kernels.labels import class_indices, keys
from tests import loops
from tests.spread import spread

pytestmark = pytest.mark.usefixtures("hardly_optimized")

B, M, D, CLASSES = 8, 6, 3, 3
TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
EVERY_TYPE = (
    "triplet",
    "margin",
    "proxy_nca",
    "supervised_contrastive",
)  # the others read labels by the same function
TAKE_REFERENCES = [n for n, f in losses.LOSSES.items() if "references" in inspect.signature(f).parameters]


def losses_and_types(turn):
    others = [name for name in losses.LOSSES if name not in EVERY_TYPE]
    return spread(EVERY_TYPE, TYPES, turn=turn) + spread(others, ["uint8", "int64"], turn=turn)


RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(CLASSES, D))
Y, RY = np.array([0, 1, 2, 0, 1, 0, 2, 1]), np.array([0, 0, 1, 2, 1, 0])
X = ((CENTRES[Y] + RNG.normal(size=(B, D))) / 3).astype(np.float32)
R = ((CENTRES[RY] + RNG.normal(size=(M, D))) / 3).astype(np.float32)


def wide(dtype):
    return np.dtype(dtype).itemsize == 8


def device(labels):
    """The labels on a device, in their own type; without x64 mode, jax has no integers of 64 bits."""
    found = jnp.asarray(labels)
    assert found.dtype == labels.dtype
    return found


def names(dtype):
    """Numbers that stand for the three classes."""
    info = np.iinfo(dtype)
    yield np.array([0, info.min or 1, info.max], dtype)
    if wide(dtype):
        yield np.array([0, 1, 2], dtype) * 2**32  # 0 in 32 bits, all of them


def parameters_of(name):
    """Parameters of a loss for three classes; one for all where labels need be no classes."""
    if name == "margin":
        return (np.float32(1.2),)
    init = losses.PARAMETERS.get(name)
    return (np.asarray(init(jax.random.key(0), CLASSES, D)),) if init else ()


def check(name, parameters, y, ry=None, place=lambda labels: labels, jit=False):
    """Value and counts against loops over Python's own integers."""
    references = () if ry is None else (R.astype(complex)[None], ry.tolist())
    x, p = X.astype(complex)[None], [np.asarray(v, complex)[None] for v in parameters]
    want = getattr(loops, name)(x, *p, y.tolist(), *references)
    assert want.edge > 1e-5
    assert want.active > 0

    def ours(y, ry):
        more = {} if ry is None else {"references": R, "reference_labels": ry}
        return losses.LOSSES[name](X, y, *parameters, **more)

    value, aux = (jax.jit(ours) if jit else ours)(place(y), None if ry is None else place(ry))
    assert (int(aux["active"]), int(aux["valid"])) == (want.active, want.valid)
    np.testing.assert_allclose(value, want.value[0].real, rtol=1e-5)


def cases(name, dtype):
    """Labels, labels of references, and parameters."""
    if name in losses.PARAMETERS and name != "margin":
        yield Y.astype(dtype), None, parameters_of(name)
        return
    for number in names(dtype):
        yield number[Y], None, parameters_of(name)
        yield number[Y], number[RY], parameters_of(name)
    if name == "margin":
        boundaries = np.array([1.2, 1.0, 1.4], np.float32)
        yield Y.astype(dtype), None, (boundaries,)
        yield Y.astype(dtype), RY.astype(dtype), (boundaries,)


@pytest.mark.parametrize(("name", "dtype"), losses_and_types(turn=0))
def test_labels_of_the_host(name, dtype):
    for y, ry, parameters in cases(name, dtype):
        check(name, parameters, y, ry)


@pytest.mark.parametrize(("name", "dtype"), losses_and_types(turn=1))
def test_labels_of_a_device(name, dtype):
    with jax.enable_x64(wide(dtype)):
        for y, ry, parameters in cases(name, dtype):
            check(name, parameters, y, ry, place=device)


@pytest.mark.parametrize(
    ("name", "dtype"), [*product(["contrastive", "proxy_nca"], TYPES), ("margin", "int64")]
)
def test_traced_labels(name, dtype):
    with jax.enable_x64(wide(dtype)):
        for y, ry, parameters in cases(name, dtype):
            check(name, parameters, y, ry, place=device, jit=True)


def test_labels_in_a_list():
    number = [-(2**31), 2**40, 7]
    check("triplet", (), np.array(number)[Y], np.array(number)[RY], place=lambda labels: labels.tolist())
    check("proxy_nca", parameters_of("proxy_nca"), Y, place=lambda labels: labels.tolist())


def test_small_labels_with_references_keep_class_0():
    """A reserved label value, cast to the labels' type, was once class 0, whose references were lost."""
    rng = np.random.default_rng(1)
    x, r = (rng.normal(size=(n, 8)).astype(np.float32) for n in (16, 20))
    y, ry = rng.integers(0, 4, 16), rng.integers(0, 4, 20)
    want = loops.triplet(x.astype(complex)[None], y.tolist(), r.astype(complex)[None], ry.tolist())
    for dtype in TYPES:
        value, aux = losses.triplet(x, y.astype(dtype), references=r, reference_labels=ry.astype(dtype))
        assert (int(aux["active"]), int(aux["valid"])) == (want.active, want.valid)
        np.testing.assert_allclose(value, want.value[0].real, rtol=1e-5)


def equal(sets):
    return [[int(a) == int(b) for b in np.concatenate([s.astype(object) for s in sets])] for a in sets[0]]


def ends(dtype):
    """Numbers that a cast to another type would confuse with others, as far as this type has them."""
    info = np.iinfo(dtype)
    bits = {2**k + d for k in (7, 8, 15, 16, 31, 32, 33, 63) for d in (-1, 0)}
    numbers = {0, 1, info.min, info.max} | bits | {-n for n in bits}
    return np.array(sorted(n for n in numbers if info.min <= n <= info.max), dtype)


@pytest.mark.parametrize(
    ("types", "where"), spread(product(TYPES, TYPES), ["host", "device", "jit", "mixed"], label="-".join)
)
def test_keys_are_equal_where_labels_are(types, where):
    first, second = types
    sets = [ends(first), ends(second)]
    with jax.enable_x64(where != "host" and (wide(first) or wide(second))):
        given = {"host": sets, "mixed": [sets[0], jnp.asarray(sets[1])]}.get(where) or [
            device(s) for s in sets
        ]
        call = jax.jit(keys, static_argnums=1) if where == "jit" else keys
        found = call(given, None)
    assert all(isinstance(k, jax.Array) and k.dtype == jnp.int32 for k in found)
    assert equal([np.asarray(k) for k in found]) == equal(sets)


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
@pytest.mark.parametrize(
    ("dtype", "other"), [("int64", "int64"), ("uint32", "int32"), ("uint32", "uint32"), ("int8", "int8")]
)
def test_keys_agree_over_devices(dtype, other, how):
    """Each device holds other labels; numbered by itself, the same key would be two labels."""
    number = np.array([0, 1, np.iinfo(dtype).max, np.iinfo(dtype).max - 1], dtype)
    y, ry = number[[0, 1, 2, 3, 1, 2]], np.array([1, 0, np.iinfo(other).max], other)
    with jax.enable_x64(wide(dtype)):
        if how == "pmap":
            call = jax.pmap(lambda y: keys([y, jnp.asarray(ry)], "i"), "i", devices=jax.devices()[:2])
            own, others = call(device(y.reshape(2, 3)))
            others = others[0]
        else:
            mesh = Mesh(np.array(jax.devices()[:2]), ("i",))
            call = jax.shard_map(
                lambda y, ry: [k[None] for k in keys([y, ry], "i")],
                mesh=mesh,
                in_specs=(P("i"), P()),
                out_specs=P("i"),
            )
            own, others = jax.jit(call)(device(y), device(ry))
            others = others[0]
    assert equal([np.asarray(own).ravel(), np.asarray(others)]) == equal([y, ry])


@pytest.mark.parametrize("name", ["triplet", "lifted", "margin"])
def test_labels_beyond_32_bits_on_two_devices(name):
    y, ry = Y * 2**32, RY * 2**32
    parameters = parameters_of(name)

    def loss(x, y, axis_name=None):
        return losses.LOSSES[name](x, y, *parameters, references=R, reference_labels=ry, axis_name=axis_name)

    with jax.enable_x64(True):
        mapped = jax.pmap(lambda x, y: loss(x, y, "i"), "i", out_axes=None, devices=jax.devices()[:2])
        value, aux = mapped(X.reshape(2, -1, D), device(y.reshape(2, -1)))
    want, counts = loss(X, y)
    assert {k: float(v) for k, v in aux.items()} == {k: float(v) for k, v in counts.items()}
    np.testing.assert_allclose(value, want, rtol=1e-5)


@pytest.mark.parametrize("name", TAKE_REFERENCES)
def test_no_label_value_is_reserved(name):
    number = np.array([-(2**31), 2**31 - 1, -2], np.int32)
    check(name, parameters_of(name), number[Y], number[RY])


@pytest.mark.parametrize("name", ["triplet", "lifted", "multi_similarity"])
def test_rows_that_fill_up_a_block_are_no_anchors(name):
    y = np.array([0, -1, -2], np.int32)[Y]
    whole, cut = (losses.LOSSES[name](X, y, block_size=size) for size in (None, 5))
    np.testing.assert_allclose(cut[0], whole[0], rtol=1e-5)
    assert cut[1]["valid"] == whole[1]["valid"]


@pytest.mark.parametrize("name", spread(TAKE_REFERENCES, of=3))
def test_references_that_are_not_there_may_hold_anything(name):
    parameters = parameters_of(name)
    mask = np.array([True, False, True, True, False, True])
    r, ry = np.where(mask[:, None], R, np.nan), np.where(mask, RY, 2**31 - 1)
    want, (_, want_x, want_r) = loops.value_and_gradients(
        lambda p, x, r: getattr(loops, name)(x, *[p][: len(parameters)], Y.tolist(), r, RY[mask].tolist()),
        np.asarray(parameters[0] if parameters else 0.0),
        X,
        R[mask],
    )
    assert want.edge > 1e-5

    def loss(x, r):
        references = {"references": r, "reference_labels": ry, "reference_mask": mask}
        return losses.LOSSES[name](x, Y, *parameters, **references, block_size=5)

    (value, aux), (of_x, of_r) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(X, r)
    assert (int(aux["active"]), int(aux["valid"])) == (want.active, want.valid)
    np.testing.assert_allclose(value, want.value, rtol=1e-5)
    np.testing.assert_allclose(of_x, want_x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_r[mask], want_r, rtol=1e-4, atol=1e-5)
    assert not np.any(of_r[~mask])


@pytest.mark.parametrize("dtype", TYPES)
def test_class_indices_are_checked_before_they_are_cast(dtype):
    many = 60_000
    inside = np.array([0, 1, min(np.iinfo(dtype).max, many - 1)], dtype)
    outside = np.array(
        [
            v
            for v in (-1, many, 2**31, 2**32, 2**63, 2**64 - 1)
            if v in range(np.iinfo(dtype).min, np.iinfo(dtype).max + 1)
        ],
        dtype,
    )
    with jax.enable_x64(wide(dtype)):
        traced = jax.jit(lambda y: class_indices("proxies", many, y))
        for labels in (inside, device(inside)):
            assert class_indices("proxies", many, labels).tolist() == inside.tolist()
        assert traced(device(inside)).tolist() == inside.tolist()
        assert all(k == -1 for k in traced(device(outside)))
        for label in outside:
            with pytest.raises(
                ValueError, match=rf"labels must be in 0\.\.59999, the classes of proxies, got {label}\.\."
            ):
                class_indices("proxies", many, device(outside[outside == label]))


def test_a_class_without_a_boundary_is_no_silent_guess():
    loss = jax.jit(lambda y: losses.margin(X, y, np.ones(2, np.float32))[0])
    assert np.isfinite(loss(Y % 2))
    assert np.isnan(loss(Y))
