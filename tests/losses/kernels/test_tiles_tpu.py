"""The kernel for TPUs: interpreted on a CPU, compared with the same sweep in XLA, and lowered for a TPU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

from jaxml.losses.kernels import tiles, tiles_tpu
from jaxml.losses.kernels.measures import MEASURES
from jaxml.losses.kernels.tiles import Limits, Side

CLASSES = 9
METRICS = {name: measure.metric for name, measure in MEASURES.items() if measure.metric is not None}


@pytest.fixture
def interpreted(monkeypatch):
    """Interpret the kernel, with tiles so small that there are several of both sides."""
    monkeypatch.setattr(tiles_tpu, "MOST", (256, 128))
    monkeypatch.setattr(pl, "pallas_call", partial(pl.pallas_call, interpret=True))


def side(rng, rows, width, *, whole=False, blank=0.0):
    """Rows of which some are equal; small whole numbers if `whole`, of which distances are exact and often equal."""
    x = rng.integers(-2, 3, (rows, width)) if whole else rng.normal(size=(rows, width)) / 4
    x[rows // 2 : rows // 2 + 3] = x[0]
    group = np.where(rng.random(rows) < blank, -1, rng.integers(0, CLASSES, rows))
    x = x.astype(np.float32)
    return Side(jnp.asarray(x), jnp.asarray((x * x).sum(1)), jnp.asarray(group, jnp.int32))


def limits(rng, slots, rows, *, low, whole=False):
    """Random limits; some slots are empty, and in some the lower limit is above the upper one."""
    near = rng.integers(1, 40, (slots, rows)) if whole else rng.normal(1.0, 0.3, (slots, rows))
    reach = rng.integers(-1, 4, near.shape) if whole else rng.normal(0.2, 0.2, near.shape)
    high = np.where(rng.random(near.shape) < 0.3, -np.inf, near + reach)
    near, high = (jnp.asarray(a, jnp.float32) for a in (near, high))
    return Limits(near if low else None, high, near)


def both(anchors, own, candidates, mirrored, metric="euclidean"):
    slots, rows = own.high.shape
    args = anchors, own, jnp.linspace(0.8, 1.2, rows), candidates, mirrored, jnp.int32(slots)
    sweeps = (
        partial(tiles_tpu.sweep, metric=METRICS[metric]),
        partial(tiles.sweep, compare=tiles.hinge, tile=(64, 96), metric=METRICS[metric]),
    )
    return [jax.jit(sweep)(*args) for sweep in sweeps]


def compare(found, want):
    (sums, *gradients), (wanted, *wanted_gradients) = found, want
    assert np.asarray(wanted.number).sum() > 20
    np.testing.assert_array_equal(sums.number, wanted.number)
    np.testing.assert_array_equal(sums.slope, wanted.slope)
    # A value is a sum of terms of both signs; this is what their rounding adds up to.
    np.testing.assert_allclose(sums.value, wanted.value, rtol=1e-5, atol=1e-6 * abs(wanted.value).max())
    for g, w in zip(gradients, wanted_gradients, strict=True):
        assert (g is None) == (w is None)
        if w is not None:
            assert abs(w).max() > 0.1
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=2e-6 * abs(w).max())


@pytest.mark.parametrize(("slots", "low"), [(1, False), (4, True), (6, True), (16, False)])
def test_anchors_that_are_all_candidates(interpreted, slots, low):
    rng = np.random.default_rng(slots)
    rows = side(rng, 300, 5)
    own = limits(rng, slots, 300, low=low)
    compare(*both(rows, own, rows, own))


def test_anchors_of_one_device_among_those_of_all(interpreted):
    rng = np.random.default_rng(1)
    rows = side(rng, 300, 5)
    every = limits(rng, 4, 300, low=True)
    anchors, own = jax.tree.map(lambda a: a[130:230], rows), jax.tree.map(lambda a: a[:, 130:230], every)
    compare(*both(anchors, own, rows, every))


@pytest.mark.parametrize(
    ("anchors", "candidates", "low"), [(70, 300, True), (300, 70, False), (128, 256, False), (1, 129, False)]
)
def test_references_some_of_them_blank(interpreted, anchors, candidates, low):
    rng = np.random.default_rng(anchors)
    own = limits(rng, 4, anchors, low=low)
    found = both(side(rng, anchors, 7), own, side(rng, candidates, 7, blank=0.3), None)
    compare(*found)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric(interpreted, metric):
    rng = np.random.default_rng(2)
    rows = side(rng, 140, 20)
    own = limits(rng, 4, 140, low=True)
    compare(*both(rows, own, rows, own, metric))


@pytest.mark.parametrize("low", [False, True])
def test_distances_equal_to_limits_are_outside(interpreted, low):
    rng = np.random.default_rng(3)
    rows = side(rng, 200, 4, whole=True)
    own = limits(rng, 16, 200, low=low, whole=True)
    s = np.square(np.asarray(rows.x)[:, None] - np.asarray(rows.x)[None]).sum(-1)
    other = np.asarray(rows.group)[:, None] != np.asarray(rows.group)[None]
    d = np.where(other, s, np.inf)[None]
    inside = d < np.asarray(own.high)[:, :, None]
    if low:
        inside &= d > np.asarray(own.low)[:, :, None]
        assert (d == np.asarray(own.low)[:, :, None]).sum() > 1000
    assert (d == np.asarray(own.high)[:, :, None]).sum() > 1000
    found, want = both(rows, own, rows, own, "squared")
    compare(found, want)
    np.testing.assert_array_equal(found[0].number, inside.sum(-1))


def test_counts_of_as_many_candidates_as_a_block_holds(monkeypatch, interpreted):
    """Every negative is inside every limit, so that no count can grow larger."""
    monkeypatch.setattr(tiles_tpu, "MOST", (512, 128))
    rng = np.random.default_rng(4)
    rows = side(rng, 1200, 3)
    own = Limits(None, jnp.full((16, 1200), 100.0), jnp.zeros((16, 1200)))
    compare(*both(rows, own, rows, own))


def test_limits_that_are_no_numbers_count_nothing(interpreted):
    rng = np.random.default_rng(5)
    rows = side(rng, 150, 5)
    own = limits(rng, 4, 150, low=True)
    none = own.high.at[1, 10:60].set(-jnp.inf).at[2, 40:90].set(-jnp.inf)
    broken = Limits(own.low.at[2, 40:90].set(jnp.nan), own.high.at[1, 10:60].set(jnp.nan), own.near)
    found, _ = both(rows, broken, rows, broken)
    compare(found, both(rows, own._replace(high=none), rows, own._replace(high=none))[1])


def test_blocks_of_wide_embeddings_are_smaller():
    assert tiles_tpu.tile_size(64) == (512, 1024)
    assert tiles_tpu.tile_size(512) == (512, 512)
    assert tiles_tpu.tile_size(2048) == (128, 128)
    assert tiles_tpu.tile_size(4096) is None
    rows = Side(jnp.ones((8, 4096)), jnp.ones(8), jnp.arange(8))
    own = Limits(None, jnp.ones((4, 8)), jnp.ones((4, 8)))
    with pytest.raises(ValueError, match="4096 numbers are too wide"):
        tiles_tpu.sweep(rows, own, jnp.ones(8), rows, own, jnp.int32(4), metric=METRICS["euclidean"])


def by_platform(x, group, high):
    """Some sums and gradients, by the kernel only where the program is for a TPU."""
    rows = Side(x, jnp.sum(x * x, axis=1), group)
    own = Limits(None, high, high)
    metric = METRICS["euclidean"]
    return lax.platform_dependent(
        *(rows, own, high[0], rows, own, jnp.int32(high.shape[0])),
        tpu=partial(tiles_tpu.sweep, metric=metric),
        default=partial(tiles.sweep, compare=tiles.hinge, metric=metric, tile=(64, 64)),
    )[:2]


@pytest.mark.parametrize("how", ["jit", "pmap", "shard_map", "shard_map unchecked"])
def test_only_programs_for_tpus_hold_the_kernel(how):
    rng = np.random.default_rng(6)
    devices = 1 if how == "jit" else jax.device_count()
    assert how == "jit" or devices > 1
    x = rng.normal(size=(devices * 130, 5)).astype(np.float32)
    group, high = rng.integers(0, CLASSES, len(x)), rng.normal(1.0, 0.2, (4, len(x))).astype(np.float32)
    args = x, group.astype(np.int32), high
    function = by_platform
    if how == "pmap":
        args = tuple(np.stack(np.split(a, devices, axis=-1 if a is high else 0)) for a in args)
        function = jax.pmap(by_platform, axis_name="batch")
    elif how != "jit":
        mesh = jax.make_mesh((devices,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        sums = tiles.Sums(P("batch"), P(None, "batch"), P(None, "batch"))
        specs = P("batch"), P("batch"), P(None, "batch")
        function = jax.shard_map(
            by_platform, mesh=mesh, in_specs=specs, out_specs=(sums, P("batch")), check_vma=how == "shard_map"
        )
    traced = jax.jit(function).trace(*args)
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "tpu_custom_call" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert np.isfinite(jax.tree.leaves(jax.jit(function)(*args))[0]).all()
