"""Layers against plain loops, and their options."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.models.dropout import dropout
from jaxml.models.layers import BatchNorm, Conv, _reduce_windows, avg_pool, max_pool, relu, relu6


def windows(x, window, stride, padding, ceil, fill):
    """Plain loop: each output place's window, with its top left corner in padded coordinates."""
    size = x.shape[0] + 2 * padding - window
    count = (-(-size // stride) if ceil else size // stride) + 1
    extra = window + stride
    padded = np.full((x.shape[0] + 2 * padding + extra, x.shape[1] + 2 * padding + extra), fill)
    padded[padding : padding + x.shape[0], padding : padding + x.shape[1]] = x
    width = x.shape[1] + 2 * padding - window
    count_x = (-(-width // stride) if ceil else width // stride) + 1
    for i in range(count):
        for j in range(count_x):
            top, left = i * stride, j * stride
            yield i, j, top - padding, left - padding, padded[top : top + window, left : left + window]


def max_on_a_tpu(x, **sides):
    return _reduce_windows(x, jax.lax.max, -jnp.inf, **sides)


def mean_on_a_tpu(x, **sides):
    return _reduce_windows(x, jax.lax.add, 0.0, **sides, ceil=False) / sides["window"] ** 2


POOLS = [
    ((9, 7), {"window": 3, "stride": 2, "ceil": True}),
    ((10, 8), {"window": 3, "stride": 2, "ceil": True}),
    ((10, 9), {"window": 3, "stride": 2}),
    ((9, 8), {"window": 3, "stride": 2, "padding": 1}),
    ((7, 6), {"window": 2, "stride": 2}),
    ((8, 6), {"window": 3, "stride": 2, "padding": 1, "ceil": True}),
    ((6, 7), {"window": 3, "stride": 1, "padding": 1}),
    ((11, 8), {"window": 3, "stride": 3}),
    ((9, 11), {"window": 2, "stride": 3}),
]


@pytest.mark.parametrize(("shape", "options"), POOLS)
@pytest.mark.parametrize("form", [max_on_a_tpu, max_pool], ids=["tpu", "cpu"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_max_pool_and_its_gradient_with_ties(shape, options, form, dtype):
    random = np.random.default_rng(0)
    # Few distinct values: most windows hold ties, whose gradient goes to the first in reading order.
    x = random.integers(-2, 2, (2, *shape, 3)).astype(np.float32)
    expected, places = {}, {}
    whole = {"padding": 0, "ceil": False} | options
    for b in range(2):
        for c in range(3):
            for i, j, top, left, window in windows(x[b, :, :, c], **whole, fill=-np.inf):
                expected[b, i, j, c] = window.max()
                y, z = np.unravel_index(window.argmax(), window.shape)
                places[b, i, j, c] = (b, top + y, left + z, c)
    out, pullback = jax.vjp(partial(form, **whole), jnp.asarray(x, dtype))
    assert out.shape == tuple(max(key[axis] for key in expected) + 1 for axis in range(4))
    # Small whole numbers, so that sums are exact in bfloat16 and the forms agree to the last bit.
    cotangent = random.integers(-8, 9, out.shape).astype(np.float32)
    gradient = np.zeros(x.shape)
    for place, value in expected.items():
        assert out[place] == value
        gradient[places[place]] += cotangent[place]
    np.testing.assert_array_equal(pullback(jnp.asarray(cotangent, dtype))[0].astype(np.float32), gradient)


@pytest.mark.parametrize(("platform", "native"), [("cpu", False), ("cuda", False), ("tpu", True)])
def test_the_platform_compiled_for_decides_how_to_pool(platform, native):
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, window=3, stride=2).sum()))
    program = gradient.trace(jnp.ones((1, 9, 9, 2))).lower(lowering_platforms=(platform,)).as_text()
    assert ("select_and_scatter" in program) == native


@pytest.mark.parametrize("check_vma", [True, False, None], ids=["shard_map", "unchecked", "pmap"])
def test_max_pool_on_several_devices(check_vma):
    x = np.random.default_rng(0).integers(-2, 2, (8, 9, 8, 3)).astype(np.float32)
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(max_pool(x, window=3, stride=2, padding=1))))
    if check_vma is None:
        found = jax.pmap(gradient)(x.reshape(4, 2, 9, 8, 3)).reshape(x.shape)
    else:
        mesh, parts = jax.sharding.Mesh(jax.devices(), ("batch",)), jax.sharding.PartitionSpec("batch")
        found = jax.jit(
            jax.shard_map(gradient, mesh=mesh, in_specs=parts, out_specs=parts, check_vma=check_vma)
        )(x)
    np.testing.assert_array_equal(found, gradient(x))


def test_max_pool_passes_nan_on():
    x = jnp.ones((1, 4, 4, 1)).at[0, 1, 2, 0].set(jnp.nan)
    assert np.isnan(max_pool(x, window=2, stride=2)[0, 0, 1, 0])
    assert np.isnan(max_pool(x, window=2, stride=2)).sum() == 1


def test_relu_and_its_gradient():
    x = jnp.array([-jnp.inf, -2.0, -0.0, 0.0, 0.5, 3.0, jnp.inf])
    y, pullback = jax.vjp(relu, x)
    np.testing.assert_array_equal(y, [0, 0, 0, 0, 0.5, 3, np.inf])
    np.testing.assert_array_equal(pullback(jnp.arange(1.0, 8.0))[0], [0, 0, 0, 0, 5, 6, 7])
    assert np.isnan(relu(jnp.nan))


def test_relu6_and_its_gradient():
    x = jnp.array([-jnp.inf, -2.0, 0.0, 0.5, 5.5, 6.0, 7.0, jnp.inf])
    y, pullback = jax.vjp(relu6, x)
    np.testing.assert_array_equal(y, [0, 0, 0, 0.5, 5.5, 6, 6, 6])
    np.testing.assert_array_equal(pullback(jnp.arange(1.0, 9.0))[0], [0, 0, 0, 4, 5, 0, 0, 0])
    assert np.isnan(relu6(jnp.nan))


@pytest.mark.parametrize(("size", "first"), [((6, 8), 0), ((7, 5), 1)])
def test_same_padding_is_larger_at_the_end(size, first):
    """A kernel with a single one, of stride 2: which pixel its output is, tells the padding before it."""
    x = jnp.arange(float(np.prod(size))).reshape(1, *size, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[first, first].set(1.0)
    conv = Conv(1, (3, 3), 2, "SAME", use_bias=False)
    y = conv.apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_array_equal(y, x[:, ::2, ::2])


@pytest.mark.parametrize("form", [mean_on_a_tpu, avg_pool], ids=["tpu", "cpu"])
@pytest.mark.parametrize("stride", [1, 2])
def test_avg_pool_counts_padding(form, stride):
    random = np.random.default_rng(1)
    x = random.standard_normal((1, 6, 5, 2)).astype(np.float32)
    out, pullback = jax.vjp(partial(form, window=3, stride=stride, padding=1), jnp.asarray(x))
    cotangent = random.standard_normal(out.shape).astype(np.float32)
    gradient = np.zeros((1, 8, 7, 2))
    for c in range(2):
        for i, j, top, left, window in windows(x[0, :, :, c], 3, stride, 1, False, 0.0):
            np.testing.assert_allclose(out[0, i, j, c], window.sum() / 9, rtol=1e-5, atol=1e-6)
            gradient[0, top + 1 : top + 4, left + 1 : left + 4, c] += cotangent[0, i, j, c] / 9
    np.testing.assert_allclose(pullback(cotangent)[0], gradient[:, 1:-1, 1:-1], rtol=1e-5, atol=1e-6)


SHAPES = [((3, 2), 2), ((1, 1), 1), ((1, 1), 2), ((5, 4), 1), ((2, 3), 1), ((3, 3), 1)]


@pytest.mark.parametrize(("kernel_size", "strides"), SHAPES)
def test_conv_against_loops(kernel_size, strides):
    random = np.random.default_rng(2)
    padding = (0, 0) if kernel_size == (1, 1) else (1, 0)
    conv = Conv(4, kernel_size, strides, padding)
    x = random.standard_normal((2, 6, 5, 3)).astype(np.float32)
    kernel = random.standard_normal((*kernel_size, 3, 4)).astype(np.float32)
    bias = random.standard_normal(4).astype(np.float32)
    out = np.asarray(conv.apply({"params": {"kernel": kernel, "bias": bias}}, x))
    padded = np.pad(x.astype(np.float64), [(0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)])
    expected = np.zeros(out.shape)
    for b, i, j, c in np.ndindex(out.shape):
        top, left = i * strides, j * strides
        patch = padded[b, top : top + kernel_size[0], left : left + kernel_size[1]]
        expected[b, i, j, c] = (patch * kernel[..., c]).sum() + bias[c]
    assert out.shape[1:3] == tuple((padded.shape[1 + a] - kernel_size[a]) // strides + 1 for a in (0, 1))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("platform", "convolution"), [("cpu", False), ("cuda", True), ("tpu", False)])
@pytest.mark.parametrize("strides", [1, 2])
def test_the_platform_compiled_for_decides_what_a_one_by_one_convolution_is(platform, convolution, strides):
    conv, x = Conv(4, (1, 1), strides), jnp.ones((1, 6, 6, 3))
    apply = jax.jit(lambda kernel, x: conv.apply({"params": {"kernel": kernel, "bias": jnp.ones(4)}}, x))
    program = apply.trace(jnp.ones((1, 1, 3, 4)), x).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in program) == convolution
    assert ("dot_general" in program) != convolution


@pytest.mark.parametrize("kernel_size", [(5, 4), (2, 3), (5, 5)])
def test_gradient_of_conv_in_blocks(kernel_size):
    random = np.random.default_rng(3)
    conv = Conv(4, kernel_size, padding=(1, 0), use_bias=False)
    x = random.standard_normal((2, 8, 7, 3)).astype(np.float32)
    kernel = random.standard_normal((*kernel_size, 3, 4)).astype(np.float32)

    def plain(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (0, 0)), dimension_numbers=layout)

    def blocks(x, kernel):
        return conv.apply({"params": {"kernel": kernel}}, x)

    cotangent = random.standard_normal(plain(x, kernel).shape).astype(np.float32)
    ours, theirs = (jax.vjp(f, x, kernel)[1](cotangent) for f in (blocks, plain))
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_conv_keeps_float32_parameters():
    conv = Conv(4, (1, 1), dtype=jnp.bfloat16)
    variables = conv.init(jax.random.key(0), jnp.ones((1, 2, 2, 3)))
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert conv.apply(variables, jnp.ones((1, 2, 2, 3))).dtype == jnp.bfloat16


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norm_statistics(frozen):
    x = np.random.default_rng(3).normal(2.0, 3.0, (8, 3, 3, 2)).astype(np.float32)
    norm = BatchNorm(frozen=frozen)
    variables = norm.init(jax.random.key(0), x, False)
    y, updates = norm.apply(variables, x, True, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    if frozen:
        # Fresh statistics are mean 0, variance 1: the input itself.
        np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
    else:
        np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
        np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-5)
    evaluated = norm.apply(variables, x, False)
    np.testing.assert_allclose(evaluated, x / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_batch_norm_over_devices_is_that_of_the_whole_batch():
    x = jnp.asarray(np.random.default_rng(4).normal(1.0, 2.0, (8, 3)).astype(np.float32))
    whole, local, sync = BatchNorm(), BatchNorm(), BatchNorm(axis_name="batch")
    variables = whole.init(jax.random.key(0), x, False)

    def run(norm):
        step = lambda x: norm.apply(variables, x, True, mutable=["batch_stats"])  # noqa: E731
        y, updates = jax.pmap(step, axis_name="batch")(x.reshape(4, 2, 3))
        return y.reshape(8, 3), updates["batch_stats"]["mean"]

    expected, updates = whole.apply(variables, x, True, mutable=["batch_stats"])
    y, means = run(sync)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(means[3], updates["batch_stats"]["mean"], rtol=1e-5)
    y, means = run(local)
    assert np.abs(y - expected).max() > 0.1
    assert np.abs(means[0] - means[1]).max() > 1e-3


def test_dropout_depends_on_the_image_not_on_its_place():
    keys = jax.random.split(jax.random.key(5), 6)
    x = jnp.ones((6, 4, 4, 50))
    whole = dropout(x, 0.3, keys, layer=1)
    parts = jnp.concatenate([dropout(x[:2], 0.3, keys[:2], layer=1), dropout(x[2:], 0.3, keys[2:], layer=1)])
    np.testing.assert_array_equal(whole, parts)
    assert abs(float((whole == 0).mean()) - 0.3) < 0.03
    np.testing.assert_allclose(whole[whole > 0], 1 / 0.7, rtol=1e-6)
    assert np.abs(whole[0] - whole[1]).max() > 0
    assert np.abs(whole - dropout(x, 0.3, keys, layer=2)).max() > 0


def test_channel_dropout_drops_whole_maps():
    keys = jax.random.split(jax.random.key(6), 4)
    out = np.asarray(dropout(jnp.ones((4, 3, 3, 200)), 0.3, keys, layer=1, channels=True))
    assert (out == out[:, :1, :1]).all()
    assert abs((out == 0).mean() - 0.3) < 0.06


@pytest.mark.parametrize("keys", [None, jnp.zeros((3, 2), jnp.uint32)])
def test_dropout_without_a_key_per_image(keys):
    with pytest.raises(ValueError, match="keys"):
        dropout(jnp.ones((2, 4)), 0.5, keys, layer=0)


@pytest.mark.parametrize(
    "layer", [partial(max_pool, window=3, stride=2), partial(avg_pool, window=3, stride=1)]
)
def test_too_small_a_map(layer):
    with pytest.raises(ValueError, match="images: too small"):
        layer(jnp.ones((1, 2, 2, 1)))


def test_too_small_for_a_convolution():
    conv: nn.Module = Conv(1, (5, 5))
    with pytest.raises(ValueError, match="images: too small"):
        conv.init(jax.random.key(0), jnp.ones((1, 4, 4, 1)))
