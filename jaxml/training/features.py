"""Features of the backbone: a baseline, and what the head begins from."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from jaxml import config as configs
from jaxml import distributed
from jaxml.config import Config
from jaxml.evaluation.whitening import principal_axes
from jaxml.files import parse_json
from jaxml.models import BACKBONES
from jaxml.training.learner import TrainState, create
from jaxml.training.run import Run
from jaxml.training.weights import load_weights

WEIGHTS = "weights.json"
"""File that says which weights a run began with."""
IMAGES = 10_000
"""Images from whose features a head is begun, at most."""


def frozen_features(run: Run, rows: np.ndarray) -> np.ndarray:
    """Pooled features of the pretrained backbone before any training, float32 [n, F] for rows int [n]."""
    config = _without_head(run.config)
    learner, state = create(config, 1)
    state, report = load_weights(config, state)
    _warn_changed(run, report["sha256"])
    return replace(run, learner=learner, state=state).embed(rows)


def begin_head(run: Run) -> TrainState:
    """The state of a run with the head along the principal axes of its backbone's features of the training images.

    With the mean m, the first principal axes v_k and the variances s_k^2 of the features f, output k is
    c v_k . (f - m) / sqrt(s_k), with one c for all, by which the rows of the matrix have mean length 1. It lies halfway
    between the projection on the axes and PCA with whitening.

    Raises:
        ValueError: there are fewer features or images than dimensions of the embedding.
    """
    model = run.config.model
    rows = run.images.rows(run.config.data.train_on)
    rows = np.sort(np.random.default_rng(run.config.train.seed).permutation(rows)[:IMAGES])
    size = min(BACKBONES[model.backbone].features, len(rows))
    if model.feature_size > size:
        raise ValueError(
            f"--model.feature_size is {model.feature_size}; with --model.head_init pca it must be at most {size}, the "
            f"features of {model.backbone} or the images to train on"
        )
    config = configs.override(
        _without_head(run.config), {"model.normalize": False, "eval.mirror": False, "eval.crops": (1.0,)}
    )
    learner, state = create(config, 1)
    params = {name: run.state.params[name] for name in state.params}
    bare = state._replace(params=params, batch_stats=run.state.batch_stats, averages=None)
    features = replace(run, learner=learner, state=bare).embed(rows)
    distributed.say(f"head: along the principal axes of the features of {len(rows)} images")
    mean, axes, variances = principal_axes(features, model.feature_size)
    weights = axes / np.sqrt(np.sqrt(np.maximum(variances, 1e-12)))[:, None]
    weights /= np.linalg.norm(weights, axis=1).mean()
    head = {"kernel": weights.T.astype(np.float32), "bias": (-weights @ mean).astype(np.float32)}
    return run.state._replace(params={**run.state.params, "head": head})


def begun_with(run: Run) -> dict[str, Any]:
    """What `weights.json` of a run holds; nothing where it began from random numbers."""
    path = run.workdir / WEIGHTS
    found: dict[str, Any] = parse_json(path.read_bytes(), path) if path.is_file() else {}
    return found


def _without_head(config: Config) -> Config:
    """The configuration whose embedding is the backbone's pooled features."""
    features = BACKBONES[config.model.backbone].features
    model = replace(config.model, head="none", head_init="random", feature_size=features, dropout=0.0)
    whole = replace(config.eval, feature_size=0)
    return replace(config, model=model, loss=configs.Loss(), optim=configs.Optim(), eval=whole)


def _warn_changed(run: Run, sha256: str) -> None:
    """Warn if the pretrained weights are not those that the run began with, by their hash."""
    if (known := begun_with(run)) and known["sha256"] != sha256:
        warnings.warn(
            f"--model.weights {run.config.model.weights} has changed since the run began with it (see "
            f"{run.workdir / WEIGHTS}): the baseline of frozen features is of what it is now",
            stacklevel=3,
        )
