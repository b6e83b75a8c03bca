"""The contract of every backbone and every option of the embedding network."""

import dataclasses
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxml import config, models
from jaxml.models import BACKBONES

LIGHT = ["simple", "shallow", "squeezenet1_0", "squeezenet1_1"]
HEAVY = ["resnet50", "inception_v3", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
# torchvision's and timm's, without the classifier; the last two by hand, at 64 and 96 px.
PARAMETERS = {
    "squeezenet1_0": 1_248_424 - 513_000,
    "squeezenet1_1": 1_235_496 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "inception_v3": 27_161_264 - 3_326_696 - 2_049_000,
    "efficientnet_lite0": 4_652_008 - 1_281_000,
    "efficientnet_lite1": 5_416_680 - 1_281_000,
    "efficientnet_lite2": 6_092_072 - 1_281_000,
    "simple": 2 * 3 + (75 + 1) * 10 + 2 * 10 + (250 + 1) * 20 + 2 * 20 + (13 * 13 * 20 + 1) * 512 + 2 * 512,
    "shallow": 2 * 3 + (147 + 1) * 32 + 2 * 32 + (800 + 1) * 32 + 2 * 32 + (20 * 20 * 32 + 1) * 512 + 2 * 512,
}


def size_of(name: str) -> int:
    return BACKBONES[name].size if name in ("simple", "shallow") else 80


def shapes_of(module, size):
    images = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(lambda key: module.init(key, images, train=False), jax.random.key(0))


def fake_variables(module, size, seed=0):
    """Variables of sensible scale; drawing them by NumPy takes no compilation."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return (scale * random.standard_normal(leaf.shape)).astype(np.float32)
        return np.full(leaf.shape, kind in ("scale", "var"), np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(module, size))


def batch_of(size, count=8, seed=1):
    random = np.random.default_rng(seed)
    return jnp.asarray(random.standard_normal((count, size, size, 3)).astype(np.float32))


@pytest.mark.parametrize("name", BACKBONES)
def test_parameter_counts(name):
    row = BACKBONES[name]
    module = models.build(config.Model(backbone=name, head="none", feature_size=row.features))
    shapes = shapes_of(module, row.size)
    assert set(shapes["params"]) == {"backbone"}
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == PARAMETERS[name]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    assert len(row.mean) == len(row.std) == 3
    assert min(row.std) > 0


@pytest.mark.parametrize(
    ("name", "batch_norm"),
    [(name, "sync") for name in LIGHT]
    + [("simple", "frozen")]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in product(HEAVY, ("sync", "frozen"))],
)
def test_fine_tuning_lowers_the_loss(name, batch_norm):
    """A few steps on a fixed batch: the loss falls, statistics move or stay, frozen parameters stay bit for bit."""
    size = size_of(name)
    module = models.build(config.Model(backbone=name, feature_size=16, batch_norm=batch_norm))
    variables = fake_variables(module, size)
    images, target = (
        batch_of(size),
        jnp.asarray(np.random.default_rng(2).standard_normal((8, 16)), jnp.float32),
    )
    keys = jax.random.split(jax.random.key(0), 8)
    stem = sorted(variables["params"]["backbone"])[0]
    frozen = jax.tree_util.tree_map_with_path(lambda path, _: stem in str(path), variables["params"])
    optimizer = optax.chain(optax.adam(1e-3), optax.masked(optax.set_to_zero(), frozen))

    @jax.jit
    def step(variables, state):
        def loss(params):
            outputs, updates = module.apply(
                {**variables, "params": params}, images, train=True, keys=keys, mutable=["batch_stats"]
            )
            return ((outputs - target) ** 2).mean(), updates

        (value, updates), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        changes, state = optimizer.update(gradient, state, variables["params"])
        return (
            {**variables, **updates, "params": optax.apply_updates(variables["params"], changes)},
            state,
            value,
        )

    before, state, losses = variables, optimizer.init(variables["params"]), []
    for _ in range(8):
        variables, state, value = step(variables, state)
        losses.append(float(value))
    assert losses[-1] < 0.9 * losses[0]
    differ = partial(jax.tree.map, lambda a, b: bool(np.any(np.asarray(a) != b)))
    moved = differ(variables.get("batch_stats", {}), before.get("batch_stats", {}))
    assert all(leaf == (batch_norm == "sync") for leaf in jax.tree.leaves(moved))
    assert differ(variables["params"], before["params"]) == jax.tree.map(lambda leaf: not leaf, frozen)


@pytest.mark.parametrize(
    "name",
    [
        *("simple", "squeezenet1_1"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY),
    ],
)
def test_bfloat16_is_close_and_remat_is_equal(name):
    size = size_of(name)
    options = config.Model(backbone=name, feature_size=16, batch_norm="frozen")
    module = models.build(options)
    variables, images = fake_variables(module, size), batch_of(size, 2)
    keys = jax.random.split(jax.random.key(0), 2)

    def gradient(options):
        module = models.build(options)
        loss = lambda params: (  # noqa: E731
            module.apply({**variables, "params": params}, images, train=True, keys=keys) ** 2
        ).sum()
        return jax.jit(jax.grad(loss))(variables["params"])

    exact = gradient(options)
    for a, b in zip(
        jax.tree.leaves(exact),
        jax.tree.leaves(gradient(dataclasses.replace(options, remat=True))),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(np.abs(a).max()))

    half = models.build(dataclasses.replace(options, dtype="bfloat16"))
    wanted = jax.jit(partial(module.apply, train=False))(variables, images)
    outputs = jax.jit(partial(half.apply, train=False))(variables, images)
    assert outputs.dtype == jnp.float32
    error = np.linalg.norm(outputs - wanted) / np.linalg.norm(wanted)
    assert 1e-5 < error < 0.05


def test_remat_changes_the_program():
    counts = []
    for remat in (False, True):
        module = models.build(config.Model(backbone="squeezenet1_1", remat=remat))
        variables, images = fake_variables(module, 64), batch_of(64, 1)
        loss = lambda params: module.apply({"params": params}, images, train=True).sum()  # noqa: B023, E731
        counts.append(str(jax.make_jaxpr(jax.grad(loss))(variables["params"])).count("conv_general_dilated"))
    assert counts[1] > counts[0]


def test_heads_and_pooling():
    """Each head and pooling against the formula of its docstring, from one feature map."""
    images = batch_of(64, 2)
    linear = models.build(config.Model(backbone="squeezenet1_1", feature_size=8))
    variables = fake_variables(linear, 64)
    feature_map = np.asarray(linear.bind(variables).backbone(images, False), np.float64)
    mean, maximum = feature_map.mean((1, 2)), feature_map.max((1, 2))
    kernel = np.asarray(variables["params"]["head"]["kernel"], np.float64)
    assert feature_map.shape == (2, 3, 3, 512)

    def outputs(**options):
        options = {"backbone": "squeezenet1_1", "feature_size": 8, **options}
        params = dict(variables["params"])
        if options.get("head") == "conv":
            params["head"] = {
                "kernel": kernel.astype(np.float32)[None, None],
                "bias": np.zeros(8, np.float32),
            }
        if options.get("head") == "none":
            del params["head"]
        return models.build(config.Model(**options)).apply({"params": params}, images, train=False)

    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(outputs(), mean @ kernel)
    close(outputs(pooling="avg+max"), (mean + maximum) @ kernel)
    close(outputs(head="none", feature_size=512), mean)
    close(outputs(head="conv"), np.maximum(feature_map @ kernel, 0).mean((1, 2)))
    close(outputs(dropout=0.5), mean @ kernel)


def test_dropout_before_the_head_is_each_images_own():
    module = models.build(config.Model(backbone="squeezenet1_1", feature_size=8, dropout=0.5))
    variables, images = fake_variables(module, 64), batch_of(64, 4)
    keys = jax.random.split(jax.random.key(0), 4)
    whole = module.apply(variables, images, train=True, keys=keys)
    part = module.apply(variables, images[2:], train=True, keys=keys[2:])
    np.testing.assert_allclose(whole[2:], part, rtol=1e-4, atol=1e-5)
    assert np.abs(whole - module.apply(variables, images, train=False)).max() > 1e-2
    with pytest.raises(ValueError, match="keys"):
        module.apply(variables, images, train=True)


def test_simple_is_the_same_on_one_and_on_four_devices():
    """Training outputs and gradients, BatchNorm synchronised, dropout keyed by image."""
    images, keys = batch_of(64, 8), jax.random.split(jax.random.key(3), 8)
    single = models.build(config.Model(feature_size=8))
    parallel = models.build(config.Model(feature_size=8), axis_name="batch")
    variables = fake_variables(single, 64)

    def gradient(module, images, keys):
        def loss(params):
            outputs, _ = module.apply(
                {**variables, "params": params}, images, train=True, keys=keys, mutable=["batch_stats"]
            )
            return (outputs**2).mean()

        return jax.grad(loss)(variables["params"])

    def device_gradient(images, keys):
        return jax.lax.pmean(gradient(parallel, images, keys), "batch")

    expected = jax.jit(partial(gradient, single))(images, keys)
    split = jax.pmap(device_gradient, axis_name="batch", out_axes=None)(
        images.reshape(4, 2, 64, 64, 3), keys.reshape(4, 2)
    )
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(split), strict=True
    ):
        # Under BatchNorm a convolution's bias has gradient 0: nothing but rounding.
        scale = max(float(np.abs(a).max()), 1e-2)
        np.testing.assert_allclose(a, b, atol=1e-4 * scale, err_msg=str(path))


def test_init_is_deterministic_and_of_the_documented_scale():
    module = models.build(config.Model(backbone="simple", feature_size=64))
    variables = models.init(module, jax.random.key(0), 64)
    again = models.init(module, jax.random.key(0), (64, 64))
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    kernel = variables["params"]["backbone"]["fc1"]["kernel"]
    # Xavier-normal: variance 2 / (inputs + outputs).
    assert float(kernel.std()) == pytest.approx(np.sqrt(2 / (3380 + 512)), rel=0.01)
    assert set(variables) == {"params", "batch_stats"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg"}, "--model.backbone is 'vgg'; it must be one of simple"),
        ({"head": "mlp"}, "--model.head is 'mlp'; it must be linear or conv or none or classifier"),
        ({"pooling": "max"}, "--model.pooling is 'max'"),
        ({"batch_norm": "off"}, "--model.batch_norm is 'off'"),
        ({"dtype": "float16"}, "--model.dtype is 'float16'"),
        ({"dropout": 1.0}, "--model.dropout is 1.0; it must be less than 1"),
        ({"feature_size": 0}, "--model.feature_size is 0; it must be at least 1"),
        ({"backbone": "simple", "head": "conv"}, "--model.backbone simple gives a vector"),
        ({"backbone": "simple", "pooling": "avg+max"}, "--model.backbone simple gives a vector"),
        ({"backbone": "simple", "pooling": "gem"}, "--model.backbone simple gives a vector"),
        ({"backbone": "simple", "head": "classifier"}, "no pretrained classifier"),
        (
            {"backbone": "resnet50", "head": "none"},
            "--model.feature_size is 64; with --model.head none it must be 2048, the features of resnet50",
        ),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        models.build(config.Model(**options))


@pytest.mark.parametrize("shape", [(64, 64, 3), (2, 64, 64, 1), (2, 3, 64, 64)])
def test_images_of_a_wrong_shape(shape):
    with pytest.raises(ValueError, match="images"):
        models.build(config.Model()).init(jax.random.key(0), jnp.zeros(shape), train=False)


@pytest.mark.parametrize("name", ["simple", "squeezenet1_1", "inception_v3"])
def test_images_too_small(name):
    with pytest.raises(ValueError, match="images: too small"):
        models.build(config.Model(backbone=name)).init(
            jax.random.key(0), jnp.zeros((1, 12, 12, 3)), train=False
        )
