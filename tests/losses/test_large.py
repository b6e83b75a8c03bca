"""All triplets of large batches: against float64, and divided over devices; minutes, so `make test-slow` runs them."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxml import losses

pytestmark = pytest.mark.slow
MARGIN, WIDTH = 0.2, 64


def batch(size, per_class):
    """Unit vectors around class centres, some but not all of whose triplets violate the margin."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(size) // per_class).astype(np.int32)
    x = rng.normal(size=(size // per_class, WIDTH))[labels] + 1.5 * rng.normal(size=(size, WIDTH))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def reference(x, labels):
    """Mean hinge over its violations, their number, and the gradient, an anchor at a time in float64."""
    x = x.astype(np.float64)
    value, active, gradient, edges = 0.0, 0, np.zeros_like(x), 0
    for a in range(len(x)):
        difference = x[a] - x
        d = np.sqrt((difference**2).sum(1))
        weight = np.zeros(len(x))  # of the distance between the anchor and each candidate
        others = np.flatnonzero(labels != labels[a])
        for p in np.flatnonzero((labels == labels[a]) & (np.arange(len(x)) != a)):
            above = d[p] - d[others] + MARGIN
            violated = others[above > 0]
            value += above[above > 0].sum()
            active += len(violated)
            edges += int((np.abs(above) < 1e-6).sum())
            weight[p] += len(violated)
            weight[violated] -= 1
        pull = np.where(d > 0, weight / np.where(d > 0, d, 1.0), 0.0)[:, None] * difference
        gradient[a] += pull.sum(0)
        gradient -= pull
    return value / active, active, gradient / active, edges


def test_four_thousand_images_agree_with_float64():
    x, labels = batch(4096, 4)
    value, active, gradient, edges = reference(x, labels)
    (loss, aux), found = jax.jit(
        jax.value_and_grad(lambda x: losses.triplet(x, labels, margin=MARGIN), has_aux=True)
    )(x)
    assert 0 < active < float(aux["valid"]) == 4096 * 3 * 4092
    assert abs(float(aux["active"]) - active) <= edges
    np.testing.assert_allclose(loss, value, rtol=1e-5)
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-4 * np.abs(gradient).max())


def test_eight_thousand_images_are_the_same_on_one_two_and_four_devices():
    x, labels = batch(8192, 4)

    def step(x, labels):
        def loss(x):
            return losses.triplet(x, labels, margin=MARGIN, axis_name="batch")

        return jax.value_and_grad(loss, has_aux=True)(x)

    results = []
    for count in (1, 2, 4):
        mesh = Mesh(np.array(jax.devices()[:count]), ("batch",))
        specs = ((P(), {"active": P(), "valid": P()}), P("batch"))
        call = jax.shard_map(step, mesh=mesh, in_specs=(P("batch"), P("batch")), out_specs=specs)
        (loss, aux), gradient = jax.jit(call)(x, labels)
        results.append((float(loss), float(aux["active"]), np.asarray(gradient)))
    assert 0 < results[0][1] < 8192 * 3 * 8188
    for loss, active, gradient in results[1:]:
        np.testing.assert_allclose(loss, results[0][0], rtol=1e-6)
        assert active == pytest.approx(results[0][1], abs=8)  # triplets within rounding of the margin
        np.testing.assert_allclose(gradient, results[0][2], rtol=1e-4, atol=1e-5 * np.abs(gradient).max())
