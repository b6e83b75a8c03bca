"""A run's embeddings of pictures, their metrics beside those of baselines, and its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from tqdm import tqdm

from jaxml import config as configs
from jaxml.evaluation.clustering import cluster, evaluate
from jaxml.files import write_json
from jaxml.models import BACKBONES
from jaxml.reports import run as report
from jaxml.training import distributed, history
from jaxml.training import step as training
from jaxml.training.preemption import Interrupted

if TYPE_CHECKING:
    from jaxml.training.run import Run


def embedder(run: Run) -> Callable[[training.TrainState, np.ndarray], np.ndarray]:
    """Function (state, rows [n]) -> embeddings float32 [n, D]; compiled once, on all devices of the run."""
    embed_pixels = pixel_embedder(run.learner, run.devices)
    size = -(-run.config.eval.batch_size // jax.process_count())
    hidden = not distributed.is_main()

    def embed(state: training.TrainState, rows: np.ndarray) -> np.ndarray:
        own = distributed.share(rows)
        batches = [own[i : i + size] for i in range(0, len(own), size)]
        found = []
        for pixels in tqdm(run.images.read(batches), "embedding", len(batches), False, disable=hidden):
            if run.signals.received:
                raise Interrupted
            found.append(embed_pixels(state, pixels))
        return distributed.gather(np.concatenate(found), len(rows))

    return embed


def pixel_embedder(learner: training.Learner, devices: list) -> Callable:
    """Function (state, pixels uint8 [n, S, S, 3]) -> embeddings float32 [n, D], by batches of one shape."""
    count = len(devices)
    share = -(-learner.config.eval.batch_size // (count * jax.process_count()))
    step = training.parallel(
        lambda images, params, stats: training.embed_step(learner, params, stats, images),
        in_axes=(0, None, None),
        out_axes=0,
        devices=devices,
    )

    def embed(state: training.TrainState, pixels: np.ndarray) -> np.ndarray:
        found = []
        for i in range(0, len(pixels), count * share):
            part = pixels[i : i + count * share]
            full = np.pad(part, ((0, count * share - len(part)), (0, 0), (0, 0), (0, 0)))
            output = np.asarray(step(full.reshape(count, share, *part.shape[1:]), *state[1:3]))
            found.append(output.reshape(count * share, -1)[: len(part)])
        return np.concatenate(found)

    return embed


def score(run: Run, embeddings: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """All metrics of the embeddings of some rows, as the configuration asks for them."""
    settings = run.config.eval
    return evaluate(
        embeddings,
        run.images.index.labels[rows],
        clusters_per_class=settings.clusters_per_class,
        kmeans_seeds=settings.kmeans_seeds,
    )


def table(rows: dict[str, dict[str, float]]) -> str:
    """Metrics of several embeddings, one line each, for a terminal."""
    columns = {"nmi": "NMI", "f1": "F1", "recall@1": "Recall@1"}
    lines = ["".join([f"{'':20}", *(f"{title:>10}" for title in columns.values())])]
    for name, row in rows.items():
        lines.append("".join([f"{name:20}", *(f"{row[key]:10.4f}" for key in columns)]))
    return "\n".join(lines)


def write_results(
    run: Run, rows: np.ndarray, embeddings: np.ndarray, frozen: np.ndarray | None
) -> dict[str, Any]:
    """Score the embeddings [n, D] of some rows [n] beside baselines, and write `results.json` and `report.html`.

    Baselines are raw pixels and, if given, the features [n, F] of the backbone before any training. Returns what
    `results.json` holds.
    """
    pixels = next(run.images.read([rows]))
    rivals = {"raw pixels (8 x 8)": pixels_as_features(pixels)}
    if frozen is not None:
        rivals["frozen features"] = frozen
    results: dict[str, Any] = {
        "step": int(run.state.step),
        "test": score(run, embeddings, rows),
        "baselines": {name: score(run, features, rows) for name, features in rivals.items()},
    }
    write_json(run.workdir / "results.json", results)
    labels = run.images.index.labels[rows]
    classes = len(np.unique(labels)) * run.config.eval.clusters_per_class
    report.write(
        run.workdir / "report.html",
        config=configs.to_dict(run.config),
        history=history.read(run.workdir / "metrics.jsonl"),
        results=results["test"],
        baselines=list(results["baselines"].items()),
        embeddings=embeddings,
        labels=labels,
        clusters=cluster(embeddings, classes),
        images=pixels,
        class_names=run.images.index.class_names,
    )
    return results


def pixels_as_features(images: np.ndarray, side: int = 8) -> np.ndarray:
    """Mean colours on a grid: uint8 [n, S, S, 3] -> float32 [n, side * side * 3] in [0, 1]."""
    edges = np.linspace(0, images.shape[1], side + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(images, edges, axis=1, dtype=np.float32), edges, axis=2)
    counts = np.diff(np.append(edges, images.shape[1]))
    areas = (counts[:, None] * counts[None, :])[None, :, :, None]
    return (sums / areas / 255).reshape(len(images), -1).astype(np.float32)


def frozen_features(run: Run, rows: np.ndarray) -> np.ndarray:
    """Pooled features of the pretrained backbone before any training, float32 [n, D] for rows int [n]."""
    features = BACKBONES[run.config.model.backbone].features
    model = replace(run.config.model, head="none", feature_size=features, dropout=0.0)
    config = replace(run.config, model=model, loss=configs.Loss(), optim=configs.Optim())
    learner, state = training.create(config, 1)
    state, _ = training.load_weights(config, state)
    return embedder(replace(run, learner=learner))(state, rows)
