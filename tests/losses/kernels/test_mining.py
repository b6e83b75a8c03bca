"""Masks, choices and random draws of mining, against NumPy and against the distributions they should have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxml import losses, mining

LABELS = st.lists(st.integers(-3, 3), min_size=11, max_size=11)


def in_batch(labels):
    y, ids = jnp.asarray(labels, jnp.int32), jnp.arange(len(labels), dtype=jnp.int32)
    return mining.facts(y, ids, y, ids)


@settings(max_examples=30, deadline=None, database=None)
@given(LABELS)
def test_masks_and_groups(labels):
    anchors, candidates = in_batch(labels)
    positive, negative = mining.masks(anchors, candidates)
    visited = [set() for _ in labels]
    for k in range(len(labels)):
        columns, exists = mining.column_of_positive(jnp.int32(k), anchors, candidates)
        for a in np.flatnonzero(exists):
            visited[a].add(int(columns[a]))
    for a, y in enumerate(labels):
        assert set(np.flatnonzero(positive[a])) == {j for j, z in enumerate(labels) if z == y and j != a}
        assert set(np.flatnonzero(negative[a])) == {j for j, z in enumerate(labels) if z != y}
        assert visited[a] == {j for j, z in enumerate(labels) if z == y}


def test_filling_rows_and_empty_references_count_for_nothing():
    y = jnp.asarray([0, 1], jnp.int32)
    there = jnp.asarray([True, True, False, True])
    anchors, candidates = mining.facts(y, y, jnp.asarray([0, 1, 1, 0], jnp.int32), None, there)
    assert anchors.size.tolist() == [2, 1]
    positive, negative = mining.masks(anchors._replace(real=jnp.asarray([True, False])), candidates)
    assert positive.tolist() == [[True, False, False, True], [False] * 4]
    assert negative.tolist() == [[False, True, False, False], [False] * 4]


@pytest.mark.parametrize("size", [6, 2**17])
def test_candidates_that_are_not_there_are_in_no_group(size):
    """Both by comparing all with all and by bisection, with labels at both ends of an int32."""
    rng = np.random.default_rng(0)
    ends = np.array([-(2**31), -1, 0, 2**31 - 1], np.int32)
    y, ry, there = ends, rng.choice(ends, size), rng.random(size) < 0.5
    anchors, candidates = mining.facts(
        *map(jnp.asarray, (y, np.arange(4))), jnp.asarray(ry), None, jnp.asarray(there)
    )
    order, start = np.asarray(candidates.order), np.asarray(anchors.start)
    for a in range(4):
        group = order[start[a] : start[a] + int(anchors.size[a])]
        assert group.tolist() == np.flatnonzero((ry == y[a]) & there).tolist()


@pytest.mark.parametrize("width", [1, 15, 255, 256, 257, 5000])
def test_row_counts(width):
    x = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    limits = (-1.0, 0.0, 1.0, 9.0)
    got = mining.row_counts(jnp.asarray(x), [lambda x, t=t: x < t for t in limits])
    assert got.tolist() == np.stack([(x < t).sum(1) for t in limits], axis=1).tolist()
    assert mining.row_count(jnp.asarray(x > 0)).tolist() == (x > 0).sum(1).tolist()


@settings(max_examples=30, deadline=None, database=None)
@given(st.integers(0, 2**32 - 1), LABELS, st.sampled_from([0.0, 0.25, 0.6, 1.0]))
def test_local_positives_are_within_numpy_quantile(seed, labels, quantile):
    d = np.random.default_rng(seed).uniform(size=(11, 11)).astype(np.float32)
    anchors, candidates = in_batch(labels)
    positive, _ = mining.masks(anchors, candidates)
    got = np.asarray(mining.local(jnp.asarray(d), positive, anchors, candidates, jnp.float32(quantile)))
    for a in range(11):
        own = d[a][positive[a]]
        want = set()
        if own.size:
            limit = np.quantile(own.astype(np.float64), quantile) + 1e-6
            want = {j for j in np.flatnonzero(positive[a]) if d[a, j] <= limit}
        assert set(np.flatnonzero(got[a])) == want


def test_nearest_and_farthest():
    d = jnp.asarray([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    where = jnp.asarray([[True, False, True], [False, False, False]])
    column, exists = mining.nearest(d, where)
    assert (int(column[0]), exists.tolist()) == (2, [True, False])
    assert int(mining.farthest(d, where)[0][0]) == 0
    assert mining.at(d, jnp.asarray([1, 2])).tolist() == [1.0, 4.0]


def test_weights_undo_the_density_of_distances():
    """With these weights, distances between uniform points on the sphere are distributed uniformly."""
    width = 16
    x = np.random.default_rng(0).normal(size=(2, 200_000, width))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    d = np.linalg.norm(x[0] - x[1], axis=-1)
    weights = np.exp(np.asarray(mining.log_weights(jnp.asarray(d), width, 0.1, 3.0), np.float64))
    counts, _ = np.histogram(d, bins=8, range=(1.0, 1.6), weights=weights)
    np.testing.assert_allclose(counts / counts.mean(), 1.0, atol=0.1)


def test_weights_are_cut_off():
    w = mining.log_weights(jnp.asarray([0.1, 0.5, 0.6, 1.39, 1.41]), 8, 0.5, 1.4)
    assert w[0] == w[1] > w[2] > w[3]
    assert w[4] == -jnp.inf


def test_samples_follow_the_weights():
    """The negative drawn for a fixed pair, over many keys, against the weights computed in float64."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(8, 6)) + 1.0
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = jnp.asarray([0, 0, 1, 1, 2, 2, 3, 3])
    d = np.linalg.norm(x[0] - x[2:], axis=1)
    weights = np.where(d < 1.4, 1 / (np.maximum(d, 0.5) ** 4 * (1 - np.maximum(d, 0.5) ** 2 / 4) ** 1.5), 0)

    def drawn(key):
        # Anchor 0 alone: its one triplet's gradient points to the negative that was drawn.
        gradient = jax.grad(
            lambda r: losses.triplet(
                jnp.asarray(x[:1], jnp.float32),
                y[:1],
                formula="softplus",
                mining="distance_weighted",
                key=key,
                references=r,
                reference_labels=y[1:],
            )[0]
        )(jnp.asarray(x[1:], jnp.float32))
        return jnp.argmax(jnp.abs(gradient[1:]).sum(1))

    n = 4000
    negatives = jax.jit(jax.vmap(drawn))(jax.random.split(jax.random.key(0), n))
    share = np.bincount(negatives, minlength=6) / n
    want = weights / weights.sum()
    assert (want > 0.02).sum() >= 3
    np.testing.assert_allclose(share, want, atol=4 * np.sqrt(0.25 / n))
