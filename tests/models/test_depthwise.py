"""The depthwise convolution and its gradients against plain loops, in each of its two forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.models.depthwise import DepthwiseConv, _grouped_convolution, _sum_of_slices

FORMS = {"slices": _sum_of_slices, "grouped": _grouped_convolution}
CASES = [
    (shape, kernel_size, strides)
    for shape in ((6, 8), (7, 9), (6, 5))
    for kernel_size in ((3, 3), (5, 5), (3, 5))
    for strides in (1, 2)
]


def loops(x, kernel, cotangent, strides):
    """Output, and the gradients of its inner product with `cotangent`, in float64."""
    b, height, width, channels = x.shape
    h, w = kernel.shape[:2]
    out = -(-height // strides), -(-width // strides)
    before = [
        max((n - 1) * strides + side - size, 0) // 2
        for n, side, size in zip(out, (h, w), (height, width), strict=True)
    ]
    y, dx, dkernel = np.zeros((b, *out, channels)), np.zeros(x.shape), np.zeros(kernel.shape)
    for p, q, i, j in np.ndindex(*out, h, w):
        row, column = p * strides + i - before[0], q * strides + j - before[1]
        if 0 <= row < height and 0 <= column < width:
            y[:, p, q] += x[:, row, column] * kernel[i, j, 0]
            dx[:, row, column] += cotangent[:, p, q] * kernel[i, j, 0]
            dkernel[i, j, 0] += (cotangent[:, p, q] * x[:, row, column]).sum(0)
    return y, dx, dkernel


def inputs(shape, kernel_size, strides, channels=4, batch=3):
    random = np.random.default_rng(0)
    out = [-(-side // strides) for side in shape]
    shapes = (batch, *shape, channels), (*kernel_size, 1, channels), (batch, *out, channels)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("shape", "kernel_size", "strides"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_values_and_gradients(form, shape, kernel_size, strides, dtype, tolerance):
    arrays = [jnp.asarray(array, dtype) for array in inputs(shape, kernel_size, strides)]
    x, kernel, cotangent = arrays
    expected = loops(*(np.asarray(array, np.float64) for array in arrays), strides)

    @jax.jit
    def found(x, kernel, cotangent):
        y, pullback = jax.vjp(partial(FORMS[form], strides=strides), x, kernel)
        return y, *pullback(cotangent)

    for ours, wanted in zip(found(x, kernel, cotangent), expected, strict=True):
        assert ours.dtype == dtype
        assert ours.shape == wanted.shape
        error = np.linalg.norm(np.asarray(ours, np.float64) - wanted) / np.linalg.norm(wanted)
        assert error < tolerance


@pytest.mark.parametrize(("platform", "convolution"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_the_platform_compiled_for_decides_the_form(platform, convolution):
    layer, x = DepthwiseConv((3, 3), 2), jnp.ones((1, 6, 6, 8))
    gradient = jax.grad(lambda kernel, x: layer.apply({"params": {"kernel": kernel}}, x).sum(), (0, 1))
    program = jax.jit(gradient).trace(jnp.ones((3, 3, 1, 8)), x).lower(lowering_platforms=(platform,))
    assert ("stablehlo.convolution" in program.as_text()) == convolution


def gradient_of(layer, rematerialise=False):
    def loss(kernel, x):
        return jnp.sum(jnp.sin(layer.apply({"params": {"kernel": kernel}}, x)))

    return jax.grad(jax.checkpoint(loss) if rematerialise else loss, (0, 1))


@pytest.mark.parametrize("strides", [1, 2])
def test_remat_and_vmap(strides):
    layer = DepthwiseConv((5, 5), strides)
    x, kernel, _ = inputs((7, 6), (5, 5), strides, batch=4)
    whole = jax.jit(gradient_of(layer))(kernel, x)
    again = jax.jit(gradient_of(layer, rematerialise=True))(kernel, x)
    one_by_one = jax.jit(jax.vmap(gradient_of(layer), (None, 0)))(kernel, x[:, None])
    for found in (again, (one_by_one[0].sum(0), one_by_one[1][:, 0])):
        for ours, wanted in zip(found, whole, strict=True):
            np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("check_vma", [True, False, None], ids=["shard_map", "unchecked", "pmap"])
def test_on_several_devices(check_vma):
    """The gradient of a kernel that all devices share."""
    layer = DepthwiseConv((3, 3), 2)
    x, kernel, _ = inputs((7, 6), (3, 3), 2, batch=8)
    wanted = jax.jit(gradient_of(layer))(kernel, x)

    def gradient(kernel, x):
        dkernel, dx = gradient_of(layer)(kernel, x)
        # With the check, the gradient of what all devices share is summed already.
        return dkernel if check_vma else jax.lax.psum(dkernel, "batch"), dx

    if check_vma is None:
        in_parts = jax.pmap(gradient, axis_name="batch", in_axes=(None, 0), out_axes=(None, 0))
        found = in_parts(kernel, x.reshape(4, 2, *x.shape[1:]))
    else:
        mesh, shared, parts = jax.sharding.Mesh(jax.devices(), ("batch",)), jax.P(), jax.P("batch")
        specs = {"mesh": mesh, "in_specs": (shared, parts), "out_specs": (shared, parts)}
        found = jax.jit(jax.shard_map(gradient, check_vma=check_vma, **specs))(kernel, x)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1].reshape(x.shape), wanted[1], rtol=1e-4, atol=1e-5)


def test_parameters_are_float32():
    layer = DepthwiseConv((3, 3), dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), jnp.ones((1, 4, 4, 8)))
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert layer.apply(variables, jnp.ones((1, 4, 4, 8))).dtype == jnp.bfloat16
