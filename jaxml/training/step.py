"""The training step and the embedding step, on any number of devices; the only file that names pmap.

The parts of a step are named scopes, which profiles show and `jaxml.planning` counts by: input, network, loss, update.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxml import losses, models
from jaxml.config import Config
from jaxml.data.augment import augment, center
from jaxml.data.sampling import ClassTable, sample
from jaxml.distances import l2_normalize
from jaxml.models.weights import pretrained
from jaxml.training import distributed
from jaxml.training import optimizer as optim

AXIS = "batch"
LINE = 128
"""Bytes in a line of `in_lines`."""
Array = jax.Array
Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """All that changes from step to step; the same on every device."""

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Learner:
    """What does not change: the network, the loss and the optimiser, as the configuration names them."""

    config: Config
    module: nn.Module
    loss: Callable[..., tuple[Array, Metrics]]
    optimizer: optax.GradientTransformation


def create(config: Config, num_classes: int) -> tuple[Learner, TrainState]:
    """Learner, and its state at step 0 with fresh parameters.

    Raises:
      ValueError: an unknown loss, an option that the loss does not take, or options that exclude each other.
    """
    loss = loss_function(config)
    module = models.build(config.model, AXIS)
    network_key, loss_key = jax.random.split(jax.random.key(config.train.seed))
    blank = jnp.zeros((1, config.data.size, config.data.size, 3))
    variables = models.init(module, network_key, config.data.size)
    params = dict(variables["params"])
    if config.loss.name in losses.PARAMETERS:
        width = jax.eval_shape(partial(module.apply, train=False), variables, blank).shape[-1]
        init = losses.PARAMETERS[config.loss.name]
        options = {k: v for k, v in config.loss.options if k in _keywords(init)}
        params["loss"] = init(loss_key, num_classes, width, **options)
    backbone = models.BACKBONES[config.model.backbone]
    if config.eval.size and not backbone.spatial:
        raise ValueError(f"eval.size: {config.model.backbone} takes images of one size only; leave it at 0")
    optimizer = optim.make(config.optim, config.train.steps, params)
    stats = variables.get("batch_stats", {})
    if config.train.chunk and stats and config.model.batch_norm != "frozen":
        raise ValueError(
            "train.chunk needs model.batch_norm frozen: statistics of a chunk are not the batch's"
        )
    state = TrainState(jnp.int32(0), params, stats, optimizer.init(params))
    return Learner(config, module, loss, optimizer), state


def load_weights(config: Config, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state with the pretrained weights of `model.weights`, and a report on them.

    Raises:
      WeightFormatError: it is not a weight file for the backbone.
    """
    network, loss = _without_loss(state.params)
    variables = {"params": network, "batch_stats": state.batch_stats}
    model = config.model
    variables, report = pretrained.load(
        model.weights, variables, model.backbone, classifier=model.head == "classifier"
    )
    return state._replace(
        params={**variables["params"], **loss}, batch_stats=variables.get("batch_stats", {})
    ), report


def loss_function(config: Config) -> Callable[..., tuple[Array, Metrics]]:
    """The configured loss with its options bound, a function of (embeddings, labels, [parameters], key=).

    Raises:
      ValueError: an unknown loss, or an option that the loss does not take.
    """
    name, options = config.loss.name, dict(config.loss.options)
    if name not in losses.LOSSES:
        raise ValueError(f"loss.name is {name!r}; allowed: {', '.join(losses.LOSSES)}")
    function: Callable[..., tuple[Array, Metrics]] = losses.LOSSES[name]
    if config.train.mode == "input_triplets":
        function = losses.input_triplets
    taken = _keywords(function)
    own = [p for p in taken if p not in ("axis_name", "key") and not p.startswith("reference")]
    allowed = [*own, *(_keywords(losses.PARAMETERS[name]) if name in losses.PARAMETERS else ())]
    if unknown := sorted(set(options) - set(allowed)):
        raise ValueError(f"loss.options: {name} has no {', '.join(unknown)}; it takes {', '.join(allowed)}")
    bound = {key: value for key, value in options.items() if key in own}

    def loss(*args: Any, key: Array) -> tuple[Array, Metrics]:
        random = {"key": key} if "key" in taken else {}
        return function(*args, **bound, **random, axis_name=AXIS)

    return loss


def features(
    learner: Learner, params: Any, batch_stats: Any, images: Array, keys: Array | None
) -> tuple[Array, Any]:
    """Head outputs [b, D] of uint8 images [b, S, S, 3], and new statistics; augmented where there are `keys` [b]."""
    data, backbone = learner.config.data, models.BACKBONES[learner.config.model.backbone]
    size = (learner.config.eval.size if keys is None else 0) or data.size
    normalisation: dict[str, Any] = {"size": size, "mean": backbone.mean, "std": backbone.std}
    variables = {"params": _without_loss(params)[0], "batch_stats": batch_stats}
    if keys is None:
        inputs = center(images, **normalisation)
        return jnp.asarray(learner.module.apply(variables, inputs, train=False)), batch_stats
    with jax.named_scope("input"):
        augment_keys, dropout_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        inputs = augment(
            images,
            augment_keys,
            crop_area=data.crop_area,
            flip=data.flip,
            jitter=data.jitter,
            **normalisation,
        )
    with jax.named_scope("network"):
        outputs, changed = learner.module.apply(
            variables, inputs, train=True, keys=dropout_keys, mutable=["batch_stats"]
        )
    return outputs, changed.get("batch_stats", batch_stats)


@jax.named_scope("loss")
def objective(
    learner: Learner, loss_params: Any, outputs: Array, labels: Array, key: Array
) -> tuple[Array, Metrics]:
    """Loss of the global batch, given this device's head outputs, plus the weighted mean length of the outputs.

    `key` is the same on all devices; losses that draw at random use it.
    """
    model, loss = learner.config.model, learner.config.loss
    embeddings = l2_normalize(outputs) if model.normalize else outputs
    extra = () if loss_params is None else (loss_params,)
    value, aux = learner.loss(embeddings, labels, *extra, key=key)
    if loss.norm_weight:
        lengths = jnp.sqrt(jnp.sum(outputs**2, axis=-1) + 1e-12)
        value += loss.norm_weight * lax.pmean(jnp.mean(lengths), AXIS)
    return value, aux


def gradients(
    learner: Learner, state: TrainState, images: Array, labels: Array, key: Array, keys: Array
) -> tuple[Array, Metrics, Any, Any]:
    """Loss, its counts, gradient with respect to the parameters, and new batch statistics.

    `key` is the step's, `keys` [b] the images'.
    """
    if chunk := learner.config.train.chunk:
        return _chunked_gradients(learner, state, images, labels, key, keys, chunk)

    def total(params):
        outputs, stats = features(learner, params, state.batch_stats, images, keys)
        value, aux = objective(learner, params.get("loss"), outputs, labels, key)
        return value, (aux, stats)

    (value, (aux, stats)), grads = jax.value_and_grad(total, has_aux=True)(state.params)
    return value, aux, grads, stats


def _chunked_gradients(learner, state, images, labels, key, keys, chunk):
    """The same numbers with the activations of one chunk at a time (gradient caching, Gao et al. 2021).

    Embed every chunk and keep only its outputs, differentiate the loss of the whole batch with respect to them, then
    embed every chunk again and pull that gradient back to the parameters.
    """
    if images.shape[0] % chunk:
        raise ValueError(f"train.chunk {chunk} does not divide the {images.shape[0]} images of a device")
    chunks = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), (images, keys))

    def embed(params, inputs):
        return features(learner, params, state.batch_stats, *inputs)[0]

    outputs = lax.map(partial(embed, state.params), chunks)
    head = partial(objective, learner, labels=labels, key=key)
    (value, aux), (loss_grads, output_grads) = jax.value_and_grad(
        lambda p, x: head(p, outputs=x.reshape(-1, x.shape[-1])), argnums=(0, 1), has_aux=True
    )(state.params.get("loss"), outputs)

    def accumulate(grads, part):
        inputs, cotangent = part
        _, pull_back = jax.vjp(lambda params: embed(params, inputs), state.params)
        return jax.tree.map(jnp.add, grads, pull_back(cotangent)[0]), None

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    grads, _ = lax.scan(accumulate, zeros, (chunks, output_grads))
    if loss_grads is not None:
        grads = {**grads, "loss": loss_grads}
    return value, aux, grads, state.batch_stats


def train_step(
    learner: Learner, state: TrainState, images: Array, labels: Array
) -> tuple[TrainState, Metrics]:
    """One optimiser step on this device's share of the batch: images uint8 [b, S, S, 3], labels int [b].

    Random choices for an image follow from (seed, step, its place in the global batch), so they do not depend on
    the number of devices.
    """
    count = images.shape[0]
    places = lax.axis_index(AXIS) * count + jnp.arange(count)
    step_key = jax.random.fold_in(jax.random.key(learner.config.train.seed), state.step)
    with jax.named_scope("input"):
        keys = jax.vmap(partial(jax.random.fold_in, step_key))(places)
    value, aux, grads, stats = gradients(learner, state, images, labels, step_key, keys)
    with jax.named_scope("update"):
        grads, stats = lax.pmean((grads, stats), AXIS)
        updates, opt_state = learner.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    # One number for each tensor, so that an error can name the one that is not finite.
    moved = optim.trainable(learner.config.optim, grads)
    squares = jnp.stack([jnp.sum(jnp.square(leaf)) for _, leaf in moved]) if moved else jnp.zeros(0)
    metrics = {
        "loss": value,
        "active_share": aux["active"] / jnp.maximum(aux["valid"], 1),
        "grad_norm": jnp.sqrt(jnp.sum(squares)),
        "grad_squares": squares,
    }
    return TrainState(state.step + 1, params, stats, opt_state), metrics


def resident_step(
    learner: Learner, state: TrainState, images: Array, table: ClassTable
) -> tuple[TrainState, Metrics]:
    """One step on a batch drawn on the device from all images, `in_lines` [N, n, LINE]."""
    config = learner.config
    with jax.named_scope("input"):
        indices, labels = sample(
            config.train.seed, state.step, table, config.data.classes_per_batch, config.data.images_per_class
        )
        share = indices.shape[0] // lax.axis_size(AXIS)
        start = lax.axis_index(AXIS) * share
        indices, labels = (lax.dynamic_slice_in_dim(x, start, share) for x in (indices, labels))
        drawn = draw(images, indices, config.data.stored_size)
    return train_step(learner, state, drawn, labels)


def resident_steps(
    learner: Learner, count: int, state: TrainState, images: Array, table: ClassTable
) -> tuple[TrainState, Metrics]:
    """`count` resident steps in one call to the device; metrics [count].

    The number of turns is hidden from the compiler, so that the loop's body is the same program for every count and
    the steps are the same to the last bit.
    """

    def body(i, carry):
        state, rows = carry
        state, metrics = resident_step(learner, state, images, table)
        return state, jax.tree.map(lambda row, x: row.at[i].set(x), rows, metrics)

    _, shapes = jax.eval_shape(partial(resident_step, learner), state, images, table)
    rows = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), shapes)
    return lax.fori_loop(0, lax.optimization_barrier(jnp.int32(count)), body, (state, rows))


def in_lines(images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, S, S, 3] as [N, n, LINE], zeros at the end, which is how the resident steps want them.

    A TPU keeps arrays in tiles whose last axis is 128. Of [N, S, S, 3] it would make a copy in another layout at every
    step before anything is drawn: 2.4 GB of traffic for 11,788 images of 160 x 160 px in place of 7 MB.
    """
    flat = images.reshape(len(images), -1)
    if empty := -flat.shape[1] % LINE:
        flat = np.pad(flat, ((0, 0), (0, empty)))
    return flat.reshape(len(flat), -1, LINE)


def draw(lines: Array, indices: Array, side: int) -> Array:
    """The images of some indices [b], uint8 [b, side, side, 3], from all of them `in_lines`."""
    flat = lines[indices].reshape(indices.shape[0], -1)
    return flat[:, : side * side * 3].reshape(-1, side, side, 3)


def embed_step(learner: Learner, params: Any, batch_stats: Any, images: Array) -> Array:
    """Embeddings [b, D] of uint8 images [b, S, S, 3], not augmented; with `eval.mirror` the mean of both ways round."""
    normalize = l2_normalize if learner.config.model.normalize else lambda outputs: outputs

    def embed(images: Array) -> Array:
        return normalize(features(learner, params, batch_stats, images, keys=None)[0])

    if not learner.config.eval.mirror:
        return embed(images)
    return normalize((embed(images) + embed(images[:, :, ::-1])) / 2)


def parallel(function: Callable, in_axes: tuple, devices: list, out_axes: int | None = None) -> Callable:
    """`function` on every device at once: arguments with axis 0 are divided, the others are the same everywhere.

    `devices` are this process's; the others' take part with their own, and each divides its own arguments. The first
    argument's memory is reused for the result where the result is a state (`out_axes` None).
    """
    call = jax.pmap(
        lambda _, *args: function(*args),
        axis_name=AXIS,
        in_axes=(0, *in_axes),
        out_axes=out_axes,
        devices=distributed.everywhere(devices),
        donate_argnums=(1,) if out_axes is None else (),
    )
    # pmap learns the number of devices from a divided argument, and the resident steps have none.
    return partial(call, np.arange(len(devices)))


def lower(call: Any, *args: Any) -> jax.stages.Lowered:
    """What `parallel` gave, for arguments whose divided ones are [devices, ...]; their shapes are enough."""
    return call.func.lower(*call.args, *args)


def replicate(tree: Any, devices: list) -> Any:
    """A tree of arrays with one copy on each device."""
    mesh = jax.sharding.Mesh(devices, (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def divide(array: np.ndarray, devices: list) -> Array:
    """An array [n, ...] as [devices, n / devices, ...], each part on its device."""
    mesh = jax.sharding.Mesh(devices, (AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    return jax.device_put(array.reshape(len(devices), -1, *array.shape[1:]), sharding)


def _without_loss(params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of the network, and of the loss."""
    return {k: v for k, v in params.items() if k != "loss"}, {k: v for k, v in params.items() if k == "loss"}


def _keywords(function: Callable) -> list[str]:
    """Names of the keyword-only parameters."""
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
