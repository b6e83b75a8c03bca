"""The programs whose accounts are compared with the committed ones: every loss, way of mining, formula and preset."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxml import losses
from jaxml.config.presets import PRESETS
from jaxml.losses.kernels.formulas import FORMULAS
from jaxml.losses.kernels.mining import MINING
from jaxml.planning import program
from jaxml.planning.targets import target
from jaxml.training import step as train
from jaxml.training.devices import AXIS, lower, parallel
from jaxml.training.learner import create

WIDTH, CLASSES = 64, 100
OWN_PICTURES = 1_000, 50
"""Images and classes of the data set that stands for a user's own folder."""
IN_CI = {
    "v5e": (
        *("triplet all B=1024", "triplet local_class B=1024", "triplet distance_weighted B=1024"),
        *("triplet hardest B=1024", "contrastive B=1024", "generalized_lifted B=1024"),
        *("supervised_contrastive B=1024", "soft_triple B=1024", "smooth_ap B=1024"),
    ),
    "v5e:2x2": ("triplet all B=1024", "triplet ring B=1024", "step glyphs_simple"),
    "h100": ("triplet all B=1024", "triplet soft B=1024", "proxy_anchor B=1024"),
}
"""Programs of each kernel and kind that compile in seconds; the others, which take minutes together, are slow."""
Shape = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to compile."""

    target: str
    name: str
    lower: Callable[[list[Any]], jax.stages.Lowered]
    """Called with the target's devices."""

    @property
    def slow(self) -> bool:
        """Whether it is left to `make test-compile COMPILED=compile`."""
        return self.name not in IN_CI.get(self.target, ())

    @property
    def key(self) -> tuple[str, str]:
        """Its key in the table."""
        return self.target, self.name


def loss(
    name: str, batch: int, options: dict[str, Any], devices: list[Any], width: int = WIDTH
) -> jax.stages.Lowered:
    """Value and gradient of a loss on one chip, or divided among several."""
    function = losses.LOSSES[name]
    if MINING[options.get("mining", "all")].negatives.drawn:
        options = {**options, "key": jax.random.key(0)}
    axis = AXIS if len(devices) > 1 else None

    def value_and_gradients(x, labels, *parameters):
        def total(arrays):
            return function(arrays[0], labels, *arrays[1:], **options, axis_name=axis)

        return jax.value_and_grad(total, has_aux=True)((x, *parameters))

    parameters = []
    if name in losses.PARAMETERS:
        made = jax.eval_shape(
            partial(losses.PARAMETERS[name], num_classes=CLASSES, feature_size=width), jax.random.key(0)
        )
        parameters = [Shape(made.shape, made.dtype)]
    if axis is None:
        here = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())
        call = jax.jit(value_and_gradients, in_shardings=here, out_shardings=here)
        return call.lower(Shape((batch, width), jnp.float32), Shape((batch,), jnp.int32), *parameters)
    share = (len(devices), batch // len(devices))
    in_axes = (0, 0, *(None for _ in parameters))
    call = parallel(value_and_gradients, in_axes, devices, out_axes=0)
    return lower(call, Shape((*share, width), jnp.float32), Shape(share, jnp.int32), *parameters)


def views(name: str, devices: list[Any]) -> jax.stages.Lowered:
    """Value and gradient of a loss of two views, 1,024 images on one chip."""
    here = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())
    call = jax.value_and_grad(getattr(losses, name), argnums=(0, 1), has_aux=True)
    view = Shape((1024, WIDTH), jnp.float32)
    return jax.jit(call, in_shardings=here, out_shardings=here).lower(view, view)


def step(preset: str, devices: list[Any]) -> jax.stages.Lowered:
    """The training step of a preset."""
    config = PRESETS[preset]
    size = OWN_PICTURES if config.data.source == "folder" else (0, 0)
    return program.lower(config, devices, *program.data_set(config, *size))


def embedding(preset: str, devices: list[Any]) -> jax.stages.Lowered:
    """The embedding step of a preset, which is what evaluation computes on a device."""
    config = PRESETS[preset]
    learner, state = create(config, CLASSES)
    count, side = len(devices), config.data.stored_size
    call = parallel(partial(train.embed_step, learner), (None, None, 0), devices, out_axes=0)
    variables = jax.tree.map(lambda x: Shape(x.shape, x.dtype), (state.params, state.batch_stats))
    return lower(call, *variables, Shape((count, config.eval.batch_size // count, side, side, 3), jnp.uint8))


def resnet(devices: list[Any]) -> jax.stages.Lowered:
    """ResNet-50 in bfloat16, 32 images of 224 px on each chip, streamed."""
    config = PRESETS["cub_best"]
    data = dataclasses.replace(
        config.data, input="tf_data", stored_size=256, size=224, classes_per_batch=8 * len(devices)
    )
    model = dataclasses.replace(config.model, backbone="resnet50", dtype="bfloat16")
    config = dataclasses.replace(config, data=data, model=model)
    return program.lower(config, devices, 11_788, data.classes_per_batch)


def _loss(where: str, name: str, batch: int, **options: Any) -> Program:
    title = " ".join([name, *map(str, options.values()), f"B={batch}"])
    return Program(where, title, partial(loss, name, batch, options))


PROGRAMS = [
    *(_loss("v5e", "triplet", 1024, mining=mining) for mining in MINING),
    *(_loss("v5e", "triplet", 1024, formula=formula) for formula in FORMULAS if formula != "hinge"),
    *(_loss("v5e", name, 1024) for name in losses.LOSSES if name != "triplet"),
    *(Program("v5e", f"{name} B=1024", partial(views, name)) for name in ("vicreg", "barlow_twins")),
    _loss("v5e", "triplet", 4096, mining="all"),
    *(_loss("v5e:2x2", "triplet", 1024, mining=mining) for mining in ("all", "batch_hard")),
    Program("v5e:2x2", "triplet ring B=1024", partial(loss, "triplet", 1024, {"ring": True})),
    Program(
        "v5e:16x16",
        "triplet ring B=1048576 D=512",
        partial(loss, "triplet", 2**20, {"ring": True}, width=512),
    ),
    *(_loss("v5e:2x2", name, 1024) for name in ("multi_similarity", "proxy_anchor")),
    *(
        _loss("h100", "triplet", 1024, mining=mining)
        for mining in ("all", "semi_hard", "hardest", "local_class")
    ),
    _loss("h100", "triplet", 1024, formula="soft"),
    *(_loss("h100", name, 1024) for name in ("multi_similarity", "n_pairs", "proxy_anchor")),
    _loss("h100", "triplet", 4096, mining="all"),
    *(Program("v5e:2x2", f"step {name}", partial(step, name)) for name in PRESETS),
    Program("v5e:2x2", "embed cub_best", partial(embedding, "cub_best")),
    Program("v5e:16x16", "step resnet50 bfloat16", resnet),
]


def devices_of(where: str) -> list[Any]:
    """The chips of a target."""
    return target(where).devices()
