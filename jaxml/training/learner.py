"""What a run learns with: the network, the loss and the optimiser that a configuration names, and their state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxml import losses, models
from jaxml.config import Config
from jaxml.losses.signatures import keywords
from jaxml.training import averages
from jaxml.training import optimizer as optimizers
from jaxml.training.devices import AXIS

Array = jax.Array
Metrics = dict[str, Array]
Loss = Callable[..., tuple[Array, Metrics]]
PROXIES = "centre_invariance"
"""The regulariser of a loss's parameters; the others are of embeddings."""


class TrainState(NamedTuple):
    """All that changes from step to step; the same on every device."""

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any
    averages: Any = None
    """Of the network's {"params", "batch_stats"}, with `train.ema`."""
    memory: losses.Memory | None = None
    """Embeddings of earlier batches, with `loss.memory_size`."""

    @property
    def network(self) -> tuple[Any, Any]:
        """Parameters and statistics by which it embeds: the averages, where there are some."""
        if self.averages is None:
            return self.params, self.batch_stats
        return self.averages["params"], self.averages["batch_stats"]


@dataclasses.dataclass(frozen=True)
class Network:
    """What embeds: the module that a configuration names, and how the configuration prepares images for it."""

    config: Config
    module: nn.Module


@dataclasses.dataclass(frozen=True)
class Learner(Network):
    """What does not change: the network, the loss and the optimiser, as the configuration names them."""

    loss: Loss
    optimizer: optax.GradientTransformation
    teacher: Network | None = None
    """The network that this one learns from, and how that is shown the same crops; its parameters are not here."""


def create(
    config: Config,
    num_classes: int,
    init: Callable[..., dict[str, Any]] = models.init,
    class_weights: np.ndarray | None = None,
) -> tuple[Learner, TrainState]:
    """Learner, and its state at step 0 with fresh parameters, which `init` makes.

    `class_weights` are those that `loss.class_weights` gives the classes, float [num_classes]; 1 each while the names
    of the classes are not known.

    Raises:
        ValueError: an unknown loss, an option that the loss does not take, or options that exclude each other.
    """
    if class_weights is None and config.loss.class_weights:
        class_weights = np.ones(num_classes, np.float32)
    loss = loss_function(config, class_weights)
    module = models.build(config.model, AXIS)
    network_key, loss_key = jax.random.split(jax.random.key(config.train.seed))
    blank = jnp.zeros((1, config.data.size, config.data.size, 3))
    variables = init(module, network_key, config.data.size)
    params = dict(variables["params"])
    by_width = config.loss.name in losses.PARAMETERS or config.loss.memory_size
    width = jax.eval_shape(partial(module.apply, train=False), variables, blank).shape[-1] if by_width else 0
    if config.loss.name in losses.PARAMETERS:
        params["loss"] = _loss_parameters(config, loss_key, num_classes, width)
    _check_regularizers(config, params.get("loss"))
    backbone = models.BACKBONES[config.model.backbone]
    if config.eval.size and not backbone.spatial:
        raise ValueError(f"--eval.size: {config.model.backbone} takes images of one size only; leave it at 0")
    optimizer = optimizers.make(config, params)
    stats = variables.get("batch_stats", {})
    if config.train.chunk and stats and config.model.batch_norm != "frozen":
        raise ValueError(
            "--train.chunk needs --model.batch_norm frozen: statistics of a chunk are not the batch's"
        )
    memory = losses.memory(config.loss.memory_size, width) if config.loss.memory_size else None
    state = TrainState(jnp.int32(0), params, stats, optimizer.init(params), memory=memory)
    return Learner(config, module, loss, optimizer), averaged(config, state)


def averaged(config: Config, state: TrainState) -> TrainState:
    """The state with averages that begin here, if the configuration asks for them."""
    if not config.train.ema:
        return state
    return state._replace(averages=averages.begin(without_loss(state.params)[0], state.batch_stats))


def loss_function(config: Config, class_weights: np.ndarray | None = None) -> Loss:
    """The configured loss with its options bound, a function of (embeddings, labels, [parameters], key=, memory=).

    Raises:
        ValueError: an unknown loss, or an option that the loss does not take.
    """
    name, options = config.loss.name, dict(config.loss.options)
    if name not in losses.LOSSES:
        raise ValueError(f"--loss.name is {name!r}; it must be one of {', '.join(losses.LOSSES)}")
    function: Loss = losses.LOSSES[name]
    if config.train.mode == "input_triplets":
        function = losses.input_triplets
    taken = keywords(function)
    own = [p for p in taken if p not in ("axis_name", "divided", "key") and not p.startswith("reference")]
    allowed = [*own, *(keywords(losses.PARAMETERS[name]) if name in losses.PARAMETERS else ())]
    if unknown := sorted(set(options) - set(allowed)):
        raise ValueError(f"--loss.options: {name} has no {', '.join(unknown)}; it takes {', '.join(allowed)}")
    if config.loss.memory_size and "references" not in taken:
        raise ValueError(
            f"--loss.memory_size needs a loss that compares images with each other, such as contrastive; {name} does "
            f"not"
        )
    bound = {key: value for key, value in options.items() if key in own}
    if class_weights is not None:
        function = losses.weighted(function, class_weights)
    if sizes := config.loss.nested_sizes:
        function = losses.matryoshka(function, sizes, normalize=config.model.normalize)

    def loss(
        embeddings: Array, labels: Array, *parameters: Any, key: Array, memory: losses.Memory | None
    ) -> tuple[Array, Metrics]:
        given: dict[str, Any] = {**bound, "axis_name": AXIS}
        if "key" in taken:
            given["key"] = key
        if memory is None:
            return function(embeddings, labels, *parameters, **given)
        weight = config.loss.memory_weight
        return losses.cross_batch(function, embeddings, labels, memory, *parameters, weight=weight, **given)

    return loss


def regularizer_function(config: Config) -> Loss:
    """The weighted sum of the configured regularisers, a function of (outputs, labels, parameters of the loss)."""
    weights = dict(config.loss.regularizers)
    parts: dict[str, Loss] = {name: partial(losses.REGULARIZERS[name], axis_name=AXIS) for name in weights}
    if (sizes := config.loss.nested_sizes) and PROXIES in parts:
        parts[PROXIES] = losses.matryoshka(parts[PROXIES], sizes, normalize=False)
    total = losses.multi(parts, weights)
    return lambda outputs, labels, params: total(
        outputs, labels, {PROXIES: params} if PROXIES in parts else {}
    )


def _check_regularizers(config: Config, loss_params: Any) -> None:
    """ValueError if a regulariser is unknown or given twice, or needs proxies where the loss has none."""
    names, allowed = [name for name, _ in config.loss.regularizers], [*losses.REGULARIZERS]
    allowed.remove("embedding_norm")  # which is loss.norm_weight
    if wrong := [name for name in names if name not in allowed or names.count(name) > 1]:
        own = "; embedding_norm is --loss.norm_weight" if "embedding_norm" in wrong else ""
        raise ValueError(
            f"--loss.regularizers has {', '.join(map(repr, wrong))}; it takes {', '.join(allowed)}, each once{own}"
        )
    if PROXIES in names and not any(leaf.ndim > 1 for leaf in jax.tree.leaves(loss_params)):
        raise ValueError(
            f"--loss.regularizers {PROXIES} needs a loss with proxies, such as proxy_anchor; {config.loss.name} has "
            f"none"
        )


def transfer_function(config: Config) -> Loss:
    """The loss that transfers a teacher's embeddings, a function of (embeddings, teacher's embeddings)."""
    function: Loss = losses.relaxed_contrastive
    if sizes := config.loss.nested_sizes:
        function = losses.matryoshka(function, sizes, normalize=config.model.normalize)
    return partial(function, sigma=config.distill.sigma, delta=config.distill.delta, axis_name=AXIS)


def _loss_parameters(config: Config, key: Array, num_classes: int, width: int) -> Any:
    """Initial parameters of the loss, for embeddings of this width: an array, or one for each of the nested sizes."""
    init = losses.PARAMETERS[config.loss.name]
    options = {k: v for k, v in config.loss.options if k in keywords(init)}
    if not (sizes := config.loss.nested_sizes):
        return init(key, num_classes, width, **options)
    keys = jax.random.split(key, len(sizes) + 1)
    return tuple(init(k, num_classes, m, **options) for k, m in zip(keys, (*sizes, width), strict=True))


def without_loss(params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of the network, and of the loss."""
    return {k: v for k, v in params.items() if k != "loss"}, {k: v for k, v in params.items() if k == "loss"}
