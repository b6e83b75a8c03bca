"""Generalised mean pooling against float64 loops, where it is at its limits, and as a part of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxml import config, models
from jaxml.models.pooling import GeneralizedMean
from jaxml.models.weights import pretrained
from tests.models.test_models import batch_of, fake_variables
from tests.models.weights import torchvision_weights

pool = GeneralizedMean()


def apply(x, p=3.0):
    return pool.apply({"params": {"p": jnp.float32(p)}}, jnp.asarray(x, jnp.float32))


def generalized_mean(x, p):
    """Loops over images and channels; numbers above are divided by the largest, so that float64 holds any power."""
    out = np.zeros((x.shape[0], x.shape[3]))
    for image in range(x.shape[0]):
        for channel in range(x.shape[3]):
            values = np.maximum(np.asarray(x[image, :, :, channel], np.float64).ravel(), 1e-6)
            largest = values.max()
            out[image, channel] = largest * (((values / largest) ** p).sum() / values.size) ** (1 / p)
    return out


def feature_map(shape, scale=1.0, seed=0):
    """Activations after a ReLU: a third of them are 0."""
    x = np.random.default_rng(seed).normal(0.4, 1.0, shape)
    return (scale * np.maximum(x, 0)).astype(np.float32)


@pytest.mark.parametrize("p", [0.5, 1.0, 3.0, 4.7, 40.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_values_are_those_of_the_formula(p, scale):
    x = feature_map((3, 5, 4, 6), scale)
    np.testing.assert_allclose(apply(x, p), generalized_mean(x, p), rtol=2e-5)


def test_a_large_map_loses_no_precision():
    x = feature_map((1, 256, 256, 2), 1e3)
    np.testing.assert_allclose(apply(x), generalized_mean(x, 3.0), rtol=2e-5)


def test_the_mean_and_nearly_the_maximum_are_special_cases():
    x = feature_map((2, 6, 6, 3))
    np.testing.assert_allclose(apply(x, 1.0), x.mean((1, 2)), atol=2e-6)
    np.testing.assert_allclose(apply(x, 2000.0), x.max((1, 2)), rtol=0.01)


def test_gradients_are_differences_of_the_formula():
    x, weights = feature_map((2, 3, 4, 2)), np.random.default_rng(1).uniform(1, 2, (2, 2))
    step = 1e-5

    def total(x, p):
        return (weights * generalized_mean(x, p)).sum()

    def ours(x, p):
        return jnp.sum(jnp.asarray(weights, jnp.float32) * apply(x, p))

    found_x, found_p = jax.grad(ours, argnums=(0, 1))(jnp.asarray(x), 3.3)
    wide = x.astype(np.float64)
    wanted = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        shift = np.zeros(x.shape)
        shift[place] = step
        if x[place]:
            wanted[place] = (total(wide + shift, 3.3) - total(wide - shift, 3.3)) / (2 * step)
    np.testing.assert_allclose(found_x, wanted, rtol=1e-4, atol=1e-6)
    slope = (total(wide, 3.3 + step) - total(wide, 3.3 - step)) / (2 * step)
    assert float(found_p) == pytest.approx(slope, rel=1e-4)
    assert abs(slope) > 0.01


@pytest.mark.parametrize("value", [0.0, -2.0, 1e-6, 1e30])
def test_values_and_gradients_are_finite_where_all_activations_are_equal(value):
    x = jnp.full((2, 3, 3, 4), value)
    found, slopes = jax.value_and_grad(lambda x, p: apply(x, p).sum(), argnums=(0, 1))(x, 3.0)
    assert float(found) == pytest.approx(8 * max(value, 1e-6), rel=1e-4)
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_what_is_not_a_number_stays_so():
    x = feature_map((1, 3, 3, 2))
    x[0, 1, 1, 0] = np.nan
    found = np.asarray(apply(x))
    assert np.isnan(found[0, 0])
    assert np.isfinite(found[0, 1])


@pytest.mark.parametrize(("head", "dtype"), [("linear", "float32"), ("conv", "bfloat16")])
def test_its_power_is_a_parameter_of_the_network_beside_backbone_and_head(head, dtype):
    module = models.build(
        config.Model(backbone="squeezenet1_1", feature_size=8, head=head, pooling="gem", dtype=dtype)
    )
    variables = fake_variables(module, 48)
    fresh = models.init(module, jax.random.key(0), 48)["params"]
    assert set(fresh) == {"backbone", "head", "pooling"}
    assert jax.tree.map(float, fresh["pooling"]) == {"p": 3.0}
    variables["params"]["pooling"] = fresh["pooling"]
    images = batch_of(48, 2)

    @jax.jit
    def computed(variables):
        def total(params):
            return (module.apply({"params": params}, images, train=True) ** 2).sum()

        slope = jax.grad(total)(variables["params"])["pooling"]["p"]
        seen = module.bind(variables).backbone(images, False)
        return module.apply(variables, images, train=False), slope, seen.astype(jnp.float32)

    found, slope, seen = computed(variables)
    kernel, bias = (np.asarray(variables["params"]["head"][name], np.float64) for name in ("kernel", "bias"))
    seen = np.asarray(seen, np.float64)
    if head == "linear":
        wanted = generalized_mean(seen, 3.0) @ kernel + bias
    else:
        wanted = generalized_mean(np.maximum(seen @ kernel[0, 0] + bias, 0), 3.0)
    assert found.dtype == jnp.float32
    # XLA may keep more digits of a bfloat16 map in one use of it than in the other.
    limit = 1e-4 if dtype == "float32" else 0.03
    assert np.linalg.norm(found - wanted) < limit * np.linalg.norm(wanted)
    assert np.isfinite(slope)
    assert abs(slope) > 0


def test_pretrained_weights_leave_the_power_as_it_is(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(torchvision_weights.weights("squeezenet1_1"), path)
    for head, size, own in (("linear", 8, ["head/bias", "head/kernel"]), ("classifier", 1000, [])):
        module = models.build(
            config.Model(backbone="squeezenet1_1", head=head, feature_size=size, pooling="gem")
        )
        variables = models.init(module, jax.random.key(0), 64)
        loaded, report = pretrained.load(path, variables, "squeezenet1_1", classifier=head == "classifier")
        assert report["fresh"] == [*own, "pooling/p"]
        assert float(loaded["params"]["pooling"]["p"]) == 3.0
