"""Adam with a schedule and a learning-rate factor for each group of parameters and each stage of the backbone."""

import re
from typing import Any

import jax
import optax
from jax.lax import stop_gradient

from jaxml.config import Config, Optim
from jaxml.models import BACKBONES
from jaxml.models.stages import stage_of

FROZEN = "frozen"


def make(config: Config, params: Any) -> optax.GradientTransformation:
    """AdamW whose learning rate is `schedule(step) * factor(parameter)`; a factor of 0 leaves parameters untouched."""
    settings, steps = config.optim, config.train.steps
    found = factors(config, params)
    # Those of the groups in any case, for the state of an optimiser has a count for each.
    used = {1.0, *(factor for _, factor in settings.groups), *jax.tree.leaves(found)}
    transforms = {
        _label(factor): optax.adamw(
            lambda step, factor=factor: factor * schedule(settings, steps)(step),
            weight_decay=settings.weight_decay,
            mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree),
        )
        for factor in sorted(used)
        if factor
    }
    return optax.partition({**transforms, FROZEN: optax.set_to_zero()}, jax.tree.map(_label, found))


def schedule(config: Optim, steps: int) -> optax.Schedule:
    """Linear warm-up to the peak learning rate, then constant or a cosine to 0 at `steps`."""
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(config.learning_rate, max(1, steps - config.warmup_steps))
    else:
        after = optax.constant_schedule(config.learning_rate)
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def rescheduled(config: Optim, before: int, after: int, step: int) -> str:
    """What a schedule over `after` instead of `before` steps means from `step` on, in a line."""
    old, new = (float(schedule(config, steps)(step)) for steps in (before, after))
    return (
        f"train.steps was {before} and is {after}: from step {step} on the schedule ({config.schedule}) is that of "
        f"{after} steps; the learning rate is {new:g} there, and was {old:g}"
    )


def factors(config: Config, params: Any) -> Any:
    """Tree of the learning rate's factors: that of the first group that matches a path `a/b/c`, times its stage's."""

    def factor(path: tuple[Any, ...], _: Any) -> float:
        name = path_name(path)
        groups = config.optim.groups
        group = next((factor for regex, factor in groups if re.fullmatch(regex, name)), 1.0)
        return group * _stage_factor(config, _stage(config, name))

    return jax.tree_util.tree_map_with_path(factor, params)


def trainable(config: Config, params: Any) -> list[tuple[str, jax.Array]]:
    """Path and value of the leaves of a parameter-shaped tree that the optimiser moves."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    pairs = zip(leaves, jax.tree.leaves(factors(config, params)), strict=True)
    return [(path_name(path), leaf) for (path, leaf), factor in pairs if factor]


def without_gradient(config: Config, params: Any) -> Any:
    """The parameters, those that the optimiser does not move as constants, for which no gradient is computed."""
    return jax.tree.map(lambda factor, x: x if factor else stop_gradient(x), factors(config, params), params)


def table(config: Config, params: Any) -> str:
    """One line per group, and per stage where stages differ: pattern, learning rate, number of arrays and parameters.

    Raises:
        ValueError: a pattern that matches no parameter, with the paths there are.
    """
    names = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    left, rows = dict(names), [("group", "learning rate", "arrays", "parameters")]
    for regex, factor in (*config.optim.groups, (".*", 1.0)):
        matched = {name: leaf for name, leaf in left.items() if re.fullmatch(regex, name)}
        if not matched and regex != ".*" and not any(re.fullmatch(regex, name) for name in names):
            raise ValueError(
                f"--optim.groups: {regex!r} matches no parameter; paths look like {', '.join(list(names)[:3])}"
            )
        left = {name: leaf for name, leaf in left.items() if name not in matched}
        by_stage: dict[int | None, list[jax.Array]] = {}
        for name, leaf in matched.items():
            stage = _stage(config, name)
            by_stage.setdefault(None if _stage_factor(config, stage) == 1 else stage, []).append(leaf)
        title = "everything else" if regex == ".*" else regex
        for stage in sorted(by_stage or [None], key=lambda stage: -1 if stage is None else stage):
            leaves, whole = by_stage.get(stage, []), factor * _stage_factor(config, stage)
            rate = f"{whole * config.optim.learning_rate:g}" if whole else FROZEN
            where = "" if stage is None else f", stage {stage + 1}"
            rows.append((title + where, rate, str(len(leaves)), f"{sum(leaf.size for leaf in leaves):,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as `a/b/c`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _stage(config: Config, name: str) -> int | None:
    """Number of the backbone's stage, from 0 on, that a parameter `a/b/c` is in, if it is in one."""
    part, _, path = name.partition("/")
    return stage_of(BACKBONES[config.model.backbone].stages, path) if part == "backbone" else None


def _stage_factor(config: Config, stage: int | None) -> float:
    """Factor of the learning rate of a stage: optim.layer_decay ^ (number of stages above it), or 0 if it is frozen."""
    if stage is None:
        return 1.0
    if stage < config.model.frozen_stages:
        return 0.0
    return config.optim.layer_decay ** (len(BACKBONES[config.model.backbone].stages) - 1 - stage)


def _label(factor: float) -> str:
    return f"{factor:g}x" if factor else FROZEN
