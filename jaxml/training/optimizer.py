"""Adam with a schedule and a learning-rate factor for each group of parameters."""

import re
from typing import Any

import jax
import optax

from jaxml.config import Optim

FROZEN = "frozen"


def make(config: Optim, steps: int, params: Any) -> optax.GradientTransformation:
    """AdamW whose learning rate is `schedule(step) * factor(parameter)`; a factor of 0 leaves parameters untouched."""
    labels = group_labels(config, params)
    factors = {1.0, *(factor for _, factor in config.groups)}
    transforms = {
        _label(factor): optax.adamw(
            lambda step, factor=factor: factor * schedule(config, steps)(step),
            weight_decay=config.weight_decay,
            mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree),
        )
        for factor in factors
        if factor
    }
    return optax.partition({**transforms, FROZEN: optax.set_to_zero()}, labels)


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


def group_labels(config: Optim, params: Any) -> Any:
    """Tree of group labels: the first regular expression that matches the whole path `a/b/c` decides."""

    def label(path: tuple[Any, ...], _: Any) -> str:
        name = path_name(path)
        return _label(next((factor for regex, factor in config.groups if re.fullmatch(regex, name)), 1.0))

    return jax.tree_util.tree_map_with_path(label, params)


def trainable(config: Optim, params: Any) -> list[tuple[str, jax.Array]]:
    """Path and value of the leaves of a parameter-shaped tree that the optimiser moves."""
    labels = jax.tree.leaves(group_labels(config, params))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    pairs = zip(leaves, labels, strict=True)
    return [(path_name(path), leaf) for (path, leaf), label in pairs if label != FROZEN]


def table(config: Optim, params: Any) -> str:
    """One line per group: its pattern, learning rate, number of arrays and parameters.

    Raises:
        ValueError: a pattern that matches no parameter, with the paths there are.
    """
    names = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    left, rows = dict(names), [("group", "learning rate", "arrays", "parameters")]
    for regex, factor in (*config.groups, (".*", 1.0)):
        matched = {name: leaf for name, leaf in left.items() if re.fullmatch(regex, name)}
        if not matched and regex != ".*" and not any(re.fullmatch(regex, name) for name in names):
            raise ValueError(
                f"optim.groups: {regex!r} matches no parameter; paths look like {', '.join(list(names)[:3])}"
            )
        left = {name: leaf for name, leaf in left.items() if name not in matched}
        rate = f"{factor * config.learning_rate:g}" if factor else FROZEN
        size = sum(leaf.size for leaf in matched.values())
        rows.append(("everything else" if regex == ".*" else regex, rate, str(len(matched)), f"{size:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as `a/b/c`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _label(factor: float) -> str:
    return f"{factor:g}x" if factor else FROZEN
