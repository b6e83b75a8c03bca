"""The training step and the embedding step of one device; `devices.parallel` runs them on all.

The parts of a step are named scopes, which profiles show and `jaxml.planning` counts by: input, network, loss, update.
"""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxml import losses, models
from jaxml.data.augment import augment, center
from jaxml.distances import l2_normalize
from jaxml.training import averages, optimizer
from jaxml.training.devices import AXIS
from jaxml.training.learner import (
    Array,
    Learner,
    Metrics,
    Network,
    TrainState,
    regularizer_function,
    transfer_function,
    without_loss,
)


def features(
    network: Network, params: Any, batch_stats: Any, images: Array, keys: Array | None
) -> tuple[Array, Any]:
    """Head outputs [b, D] of uint8 images [b, S, S, 3], and new statistics; augmented where there are `keys` [b].

    Without keys, images may also be float [b, s, s, 3], normalised already.
    """
    variables = {"params": without_loss(params)[0], "batch_stats": batch_stats}
    if keys is None:
        inputs = images if jnp.issubdtype(images.dtype, jnp.floating) else prepare(network, images)
        return jnp.asarray(network.module.apply(variables, inputs, train=False)), batch_stats
    with jax.named_scope("input"):
        augment_keys, dropout_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        inputs = augmented(network, images, augment_keys)
    with jax.named_scope("network"):
        variables["params"] = optimizer.without_gradient(network.config, variables["params"])
        outputs, changed = network.module.apply(
            variables, inputs, train=True, keys=dropout_keys, mutable=["batch_stats"]
        )
    return outputs, changed.get("batch_stats", batch_stats)


def augmented(network: Network, images: Array, keys: Array) -> Array:
    """What the network takes when it learns, float32 [b, s, s, 3] of uint8 images [b, S, S, 3] with `keys` [b]."""
    data = network.config.data
    return augment(
        images,
        keys,
        crop_area=data.crop_area,
        flip=data.flip,
        jitter=data.jitter,
        **_normalisation(network, data.size),
    )


def prepare(network: Network, images: Array, share: float = 1.0) -> Array:
    """What the network takes when it embeds, float32 [b, s, s, 3] of uint8 images [b, S, S, 3], not augmented.

    Of each image the central square whose side is `share` of S is taken.
    """
    size = network.config.eval.size or network.config.data.size
    return center(images, share=share, **_normalisation(network, size))


def _normalisation(network: Network, size: int) -> dict[str, Any]:
    backbone = models.BACKBONES[network.config.model.backbone]
    return {"size": size, "mean": backbone.mean, "std": backbone.std}


def guidance(learner: Learner, variables: Any, images: Array, keys: Array) -> Array | None:
    """The teacher's embeddings [b, T] of the very crops that `features` shows the network; None without a teacher.

    They are cut anew from the images, at the teacher's own size, as it wants them normalised. It sees no dropout and
    takes the statistics it has learned.
    """
    if (teacher := learner.teacher) is None:
        return None

    def embed(inputs: tuple[Array, Array]) -> Array:
        images, keys = inputs
        with jax.named_scope("input"):
            augment_keys, _ = jax.vmap(jax.random.split, out_axes=1)(keys)
            crops = augmented(teacher, images, augment_keys)
        with jax.named_scope("network"):
            outputs = jnp.asarray(teacher.module.apply(variables, crops, train=False))
        return l2_normalize(outputs) if teacher.config.model.normalize else outputs

    if not learner.config.train.chunk:
        return lax.stop_gradient(embed((images, keys)))
    parts = lax.map(embed, _in_chunks(learner, (images, keys)))
    return lax.stop_gradient(parts.reshape(images.shape[0], -1))


@jax.named_scope("loss")
def objective(
    learner: Learner,
    loss_params: Any,
    outputs: Array,
    labels: Array,
    key: Array,
    guide: Array | None = None,
    memory: losses.Memory | None = None,
) -> tuple[Array, tuple[Metrics, losses.Memory | None]]:
    """Loss of the global batch, given this device's head outputs, plus the weighted mean length of the outputs.

    `key` is the same on all devices; losses that draw at random use it. Where there is a `guide`, the teacher's
    embeddings, the loss is the weighted sum that the distill options describe. A `memory` is returned with the batch.
    """
    model, loss = learner.config.model, learner.config.loss
    embeddings = l2_normalize(outputs) if model.normalize else outputs
    extra = () if loss_params is None else (loss_params,)
    value, aux = learner.loss(embeddings, labels, *extra, key=key, memory=memory)
    if memory is not None:
        memory = losses.push(memory, embeddings, labels, axis_name=AXIS)
    if guide is not None:
        distill = learner.config.distill
        transfer, _ = transfer_function(learner.config)(embeddings, guide)
        value = distill.loss_weight * value + distill.weight * transfer
        aux = {**aux, "transfer": transfer}
    if loss.norm_weight:
        lengths = jnp.sqrt(jnp.sum(outputs**2, axis=-1) + 1e-12)
        value += loss.norm_weight * lax.pmean(jnp.mean(lengths), AXIS)
    if loss.regularizers:
        value += regularizer_function(learner.config)(outputs, labels, loss_params)[0]
    return value, (aux, memory)


def gradients(
    learner: Learner, state: TrainState, images: Array, labels: Array, key: Array, keys: Array, teacher: Any
) -> tuple[Array, Metrics, Any, Any, losses.Memory | None]:
    """Loss, its counts, gradient with respect to the parameters, new batch statistics, and the new memory.

    `key` is the step's, `keys` [b] the images', `teacher` the teacher's variables where there is one.
    """
    guide = guidance(learner, teacher, images, keys)
    if learner.config.train.chunk:
        return _chunked_gradients(learner, state, images, labels, key, keys, guide)

    def total(params: Any) -> tuple[Array, Any]:
        outputs, stats = features(learner, params, state.batch_stats, images, keys)
        value, more = objective(learner, params.get("loss"), outputs, labels, key, guide, state.memory)
        return value, (*more, stats)

    (value, (aux, memory, stats)), grads = jax.value_and_grad(total, has_aux=True)(state.params)
    return value, aux, grads, stats, memory


def _in_chunks(learner: Learner, arrays: Any) -> Any:
    """Arrays [b, ...] of a device's images as [b / chunk, chunk, ...]."""
    chunk = learner.config.train.chunk

    def cut(x: Array) -> Array:
        if x.shape[0] % chunk:
            raise ValueError(f"--train.chunk {chunk} does not divide the {x.shape[0]} images of a device")
        return x.reshape(-1, chunk, *x.shape[1:])

    return jax.tree.map(cut, arrays)


def _chunked_gradients(
    learner: Learner,
    state: TrainState,
    images: Array,
    labels: Array,
    key: Array,
    keys: Array,
    guide: Array | None,
) -> tuple[Array, Metrics, Any, Any, losses.Memory | None]:
    """The same numbers with the activations of one chunk at a time (gradient caching, Gao et al. 2021).

    Embed every chunk and keep only its outputs, differentiate the loss of the whole batch with respect to them, then
    embed every chunk again and pull that gradient back to the parameters.
    """
    chunks = _in_chunks(learner, (images, keys))

    def embed(params: Any, inputs: tuple[Array, Array]) -> Array:
        return features(learner, params, state.batch_stats, *inputs)[0]

    outputs = lax.map(partial(embed, state.params), chunks)
    head = partial(objective, learner, labels=labels, key=key, guide=guide, memory=state.memory)
    (value, (aux, memory)), (loss_grads, output_grads) = jax.value_and_grad(
        lambda p, x: head(p, outputs=x.reshape(-1, x.shape[-1])), argnums=(0, 1), has_aux=True
    )(state.params.get("loss"), outputs)

    def accumulate(grads: Any, part: tuple[tuple[Array, Array], Array]) -> tuple[Any, None]:
        inputs, cotangent = part
        _, pull_back = jax.vjp(lambda params: embed(params, inputs), state.params)
        return jax.tree.map(jnp.add, grads, pull_back(cotangent)[0]), None

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    grads, _ = lax.scan(accumulate, zeros, (chunks, output_grads))
    if loss_grads is not None:
        grads = {**grads, "loss": loss_grads}
    return value, aux, grads, state.batch_stats, memory


def train_step(
    learner: Learner, state: TrainState, images: Array, labels: Array, teacher: Any = ()
) -> tuple[TrainState, Metrics]:
    """One optimiser step on this device's share of the batch: images uint8 [b, S, S, 3], labels int [b].

    `teacher` holds the variables of the teacher's network, where the learner has a teacher.
    Random choices for an image follow from (seed, step, its place in the global batch), so they do not depend on
    the number of devices.
    """
    count = images.shape[0]
    places = lax.axis_index(AXIS) * count + jnp.arange(count)
    step_key = jax.random.fold_in(jax.random.key(learner.config.train.seed), state.step)
    with jax.named_scope("input"):
        keys = jax.vmap(partial(jax.random.fold_in, step_key))(places)
    value, aux, grads, stats, memory = gradients(learner, state, images, labels, step_key, keys, teacher)
    with jax.named_scope("update"):
        grads, stats = lax.pmean((grads, stats), AXIS)
        updates, opt_state = learner.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averaged = state.averages
        if averaged is not None:
            network = without_loss(params)[0]
            averaged = averages.advance(learner.config.train.ema, state.step + 1, averaged, network, stats)
    # One number for each tensor, so that an error can name the one that is not finite.
    moved = optimizer.trainable(learner.config, grads)
    squares = jnp.stack([jnp.sum(jnp.square(leaf)) for _, leaf in moved]) if moved else jnp.zeros(0)
    metrics = {
        "loss": value,
        "active_share": aux["active"] / jnp.maximum(aux["valid"], 1),
        "grad_norm": jnp.sqrt(jnp.sum(squares)),
        "grad_squares": squares,
    }
    if "transfer" in aux:
        metrics["transfer_loss"] = aux["transfer"]
    return TrainState(state.step + 1, params, stats, opt_state, averaged, memory), metrics


def embed_step(network: Network, params: Any, batch_stats: Any, images: Array) -> Array:
    """Embeddings [b, D] of images, not augmented: means over `eval.crops`, and with `eval.mirror` over both ways round.

    Images are uint8 [b, S, S, 3], or float [b, s, s, 3] as `prepare` returns them, of which no crops are taken. D is
    `eval.feature_size`, where it is set.
    """
    evaluation = network.config.eval
    normalize = l2_normalize if network.config.model.normalize else lambda outputs: outputs
    views = [images, images[:, :, ::-1]] if evaluation.mirror else [images]
    if not jnp.issubdtype(images.dtype, jnp.floating):
        views = [prepare(network, view, share) for share in evaluation.crops for view in views]
    outputs = [features(network, params, batch_stats, view, keys=None)[0] for view in views]
    found = [normalize(output[:, : evaluation.feature_size or None]) for output in outputs]
    return found[0] if len(found) == 1 else normalize(reduce(jnp.add, found) / len(found))
