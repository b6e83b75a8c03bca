"""Distances against float64, and their gradients where points coincide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxml.distances import DISTANCES, l2_normalize, largest, pairwise, rowwise

ANY_LENGTH = ("cosine", "snr")
"""Distances that do not change with the scale of the points."""


def reference(x, y, distance):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    out = np.zeros((len(x), len(y)))
    for i, u in enumerate(x):
        for j, v in enumerate(y):
            if distance == "cosine":
                out[i, j] = 1 - u @ v / np.linalg.norm(u) / np.linalg.norm(v)
            elif distance == "snr":
                out[i, j] = np.var(v - u) / np.var(u)
            elif distance == "manhattan":
                out[i, j] = np.abs(u - v).sum()
            elif distance == "dot":
                out[i, j] = -u @ v
            else:
                out[i, j] = np.linalg.norm(u - v) ** (2 if distance == "squared" else 1)
    return out


@pytest.mark.parametrize("distance", DISTANCES)
def test_agrees_with_float64(distance):
    both = jax.jit(lambda x, y: (pairwise(x, y, distance), rowwise(x[:5], y, distance)))

    @settings(max_examples=30, deadline=None, database=None)
    @given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(-20, 20))
    def check(seed, exponent, offset):
        rng = np.random.default_rng(seed)
        scale = 10.0**exponent
        shift = 0 if distance in ANY_LENGTH else offset * scale
        x = jnp.asarray(rng.normal(size=(7, 3)) * scale + shift, jnp.float32)
        y = jnp.asarray(rng.normal(size=(5, 3)) * scale + shift, jnp.float32)
        want = reference(x, y, distance)
        matrix, rows = both(x, y)
        atol = 2e-6 * np.abs(want).max()
        np.testing.assert_allclose(matrix, want, rtol=2e-5, atol=atol)
        np.testing.assert_allclose(rows, np.diag(want), rtol=2e-5, atol=atol)

    check()


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients(distance):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(n, 3)), jnp.float32) for n in (4, 6))
    w = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
    for f in (
        lambda x, y: jnp.sum(w * pairwise(x, y, distance)),
        lambda x, y: jnp.sum(w[0, :4] * rowwise(x, y[:4], distance)),
    ):
        check_grads(f, (x, y), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)
    # The matrix's own rule for gradients against that of single differences, which jax derives.
    by_pairs = jax.vmap(jax.vmap(lambda u, v: rowwise(u, v, distance), (None, 0)), (0, None))
    want = jax.grad(lambda x, y: jnp.sum(w * by_pairs(x, y)), (0, 1))(x, y)
    got = jax.grad(lambda x, y: jnp.sum(w * pairwise(x, y, distance)), (0, 1))(x, y)
    for g, v in zip(got, want, strict=True):
        np.testing.assert_allclose(g, v, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_set_with_itself(distance):
    rng = np.random.default_rng(3)
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((6, 3), (6, 6)))
    x = x.at[4].set(x[1])
    np.testing.assert_allclose(pairwise(x, x, distance), reference(x, x, distance), rtol=2e-5, atol=2e-6)
    of_rows, of_columns = jax.grad(lambda x, y: jnp.sum(w * pairwise(x, y, distance)), (0, 1))(x, x + 0)
    got = jax.grad(lambda x: jnp.sum(w * pairwise(x, x, distance)))(x)
    np.testing.assert_allclose(got, of_rows + of_columns, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-4, 1.0, 1e4])
def test_coinciding_points(distance, scale):
    rng = np.random.default_rng(1)
    point = jnp.asarray(rng.normal(size=(1, 64)) * scale, jnp.float32)
    x = jnp.tile(point, (6, 1))
    for f in (pairwise, rowwise):
        value, gradient = jax.value_and_grad(lambda x, f=f: jnp.sum(f(x, x[::-1], distance)))(x)
        assert np.isfinite(gradient).all()
        if distance not in ("cosine", "dot"):
            assert value == 0
            assert not np.any(gradient)


@pytest.mark.parametrize("distance", DISTANCES)
def test_what_is_not_finite_stays_so(distance):
    """NaN compares as neither below nor above the rounding error; it is not distance 0."""
    x = jnp.asarray(np.random.default_rng(5).normal(size=(6, 4)), jnp.float32)
    for number in (np.nan, np.inf, -np.inf):
        bad = x.at[2, 1].set(number)
        assert not np.isfinite(pairwise(bad, x[::-1], distance)[2]).any()
        assert not np.isfinite(pairwise(bad, bad, distance)[2]).any()
        assert np.isfinite(rowwise(bad, x[::-1], distance)).tolist() == [i != 2 for i in range(6)]
    large = [pairwise(1e20 * x, 1e20 * x[::-1], distance), rowwise(1e20 * x, 1e20 * x[::-1], distance)]
    for found in large:
        held = distance in (*ANY_LENGTH, "manhattan")  # the others square what float32 can not
        assert np.isfinite(found).all() == held
        assert held or not np.isfinite(found).any()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-3, 10.0), (1e15, 0.0)])
def test_no_distance_exceeds_the_largest(distance, scale, offset):
    rng = np.random.default_rng(6)
    x, y = (jnp.asarray(scale * rng.normal(size=(n, 3)) + offset, jnp.float32) for n in (7, 5))
    both = jnp.concatenate([x, y])
    greatest = np.max(np.abs(reference(both, both, distance)))
    bound = largest(x, y, distance)
    assert greatest <= bound * (1 + 1e-5)
    assert distance == "cosine" or bound <= 16 * greatest
    for number in (np.nan, np.inf):
        assert not largest(x.at[0, 0].set(number), y, distance) < np.inf
        assert not largest(x, y.at[-1, 0].set(number), distance) < np.inf


def test_duplicates_among_others_are_at_distance_zero():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(100, 512)), jnp.float32)
    d = pairwise(x, x)
    assert not np.any(np.diag(d))
    assert float(jnp.min(d + jnp.eye(100) * 100)) > 20


def test_small_distances_far_from_the_origin():
    rng = np.random.default_rng(3)
    x = jnp.asarray(100 + 1e-2 * rng.normal(size=(20, 8)), jnp.float32)
    want = reference(x, x, "euclidean") + np.eye(20)
    np.testing.assert_allclose(np.asarray(pairwise(x, x)) + np.eye(20), want, rtol=1e-3)


def test_snr_is_not_symmetric_and_knows_no_mean():
    rng = np.random.default_rng(7)
    x, y = (rng.normal(size=(n, 8)) * rng.uniform(0.1, 3, (n, 1)) for n in (5, 6))
    d = pairwise(x, y, "snr")
    assert np.abs(d - pairwise(y, x, "snr").T).max() > 1
    shifts = rng.normal(size=(5, 1)), rng.normal(size=(6, 1))
    np.testing.assert_allclose(pairwise(x + shifts[0], y + shifts[1], "snr"), d, rtol=1e-4)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e20])
def test_snr_of_rows_without_variance(constant):
    """Nothing is far from a point without signal, and its mean, as float32 rounds it, is no noise."""
    x = jnp.asarray(np.random.default_rng(8).normal(size=(4, 7)), jnp.float32)
    flat = x.at[1].set(constant)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(pairwise(x, x, "snr")))(flat)
    d = pairwise(flat, flat, "snr")
    assert not np.any(d[1])
    np.testing.assert_allclose(d[:, 1], [1, 0, 1, 1], rtol=1e-6)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert not np.any(gradient[1])


def test_l2_normalize():
    x = jnp.asarray(np.random.default_rng(4).normal(size=(5, 7)), jnp.float32)
    want = np.asarray(x, np.float64) / np.linalg.norm(np.asarray(x, np.float64), axis=1, keepdims=True)
    for scale in (1e-25, 1e-3, 1.0, 1e25):
        np.testing.assert_allclose(l2_normalize(x * scale), want, rtol=1e-5, atol=1e-7)
    check_grads(
        lambda x: jnp.sum(jnp.arange(7.0) * l2_normalize(x[0])), (x,), 1, ["rev"], eps=1e-2, atol=1e-2
    )
    zero = x.at[2].set(0.0)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(l2_normalize(x)[:, 0]))(zero)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert not np.any(gradient[2])
    assert l2_normalize(x.astype(jnp.bfloat16)).dtype == jnp.float32
    assert l2_normalize(x[0]).shape == (7,)


def test_bad_arguments_are_named():
    x = jnp.ones((3, 4))
    with pytest.raises(ValueError, match="x and y must be"):
        pairwise(x, x[:, :2])
    with pytest.raises(ValueError, match="x and y must be"):
        pairwise(x[0], x)
    with pytest.raises(
        ValueError, match=r"^distance must be one of euclidean, squared, .*, manhattan, dot, got 'hamming'"
    ):
        pairwise(x, x, "hamming")
