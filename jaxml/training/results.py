"""A run's metrics beside those of baselines, its results and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxml import config as configs
from jaxml.data.categories import of_classes
from jaxml.errors import RunError
from jaxml.evaluation.clustering import STARTS, cluster, engine, evaluate
from jaxml.evaluation.metrics import KS, at, hierarchical, retrieval
from jaxml.evaluation.reranking import reranked
from jaxml.evaluation.whitening import whiten
from jaxml.files import parse_json, write_json
from jaxml.reports import run as report
from jaxml.training import history, seen
from jaxml.training.features import frozen_features
from jaxml.training.run import Run

RESULTS = "results.json"
"""File of the metrics in a run's directory."""


def score(run: Run, embeddings: np.ndarray, rows: np.ndarray, ks: Sequence[int] = KS) -> dict[str, float]:
    """All metrics of the embeddings float32 [n, D] of some rows int [n], as the configuration asks for them.

    Recall and precision are at `ks` neighbours. Queries, gallery and sequences are those that the data set states.
    """
    settings, index = run.config.eval, run.images.index
    return evaluate(
        embeddings,
        index.labels[rows],
        clusters_per_class=settings.clusters_per_class,
        kmeans_seeds=settings.kmeans_seeds,
        ks=ks,
        **index.retrieval.take(rows).protocol(),
    )


def reranked_scores(
    run: Run, embeddings: np.ndarray, rows: np.ndarray, ks: Sequence[int] = KS
) -> dict[str, float]:
    """The metrics of retrieval in `score`, of neighbours that are ranked again."""
    index = run.images.index
    protocol = index.retrieval.take(rows).protocol()
    return retrieval(embeddings, index.labels[rows], at(ks), search=reranked(), depth=max(ks), **protocol)


def category_scores(
    run: Run, embeddings: np.ndarray, rows: np.ndarray, category: str, ks: Sequence[int] = KS
) -> dict[str, float]:
    """The metrics of retrieval by categories of classes, and those of classes and categories as two levels.

    `category` is as `data.category` of the configuration.

    Raises:
        ValueError: a class has no category, or several.
    """
    index = run.images.index
    labels, protocol = index.labels[rows], index.retrieval.take(rows).protocol()
    classes, places = np.unique(labels, return_inverse=True)
    categories = of_classes(category, index, classes)[places]
    found = retrieval(embeddings, categories, at(ks), depth=max(ks), **protocol)
    return {**found, **hierarchical(embeddings, [labels, categories], **protocol)}


def by_kmeans(run: Run, rows: np.ndarray) -> str:
    """How the clusters of some rows int [n] are computed, in a line."""
    clusters = _clusters(run, rows)
    chosen = engine(clusters, STARTS)
    return (
        f"{clusters} clusters by K-means of {chosen.name}, starts {chosen.starts}, at most {chosen.iterations} "
        f"iterations each, mean of {run.config.eval.kmeans_seeds} seeds"
    )


def table(rows: dict[str, dict[str, float]]) -> str:
    """Metrics of several embeddings, one line each, for a terminal."""
    columns = {"nmi": "NMI", "f1": "F1", "recall@1": "Recall@1"}
    width = max(20, *(len(name) + 2 for name in rows))
    lines = ["".join([" " * width, *(f"{title:>10}" for title in columns.values())])]
    for name, row in rows.items():
        lines.append("".join([f"{name:{width}}", *(f"{row[key]:10.4f}" for key in columns)]))
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
        "split": run.reported,
        "kmeans": engine(_clusters(run, rows), STARTS)._asdict(),
        run.reported: score(run, embeddings, rows),
        "baselines": {name: score(run, features, rows) for name, features in rivals.items()},
    }
    write_json(run.workdir / RESULTS, results)
    write_report(run, results, rows, embeddings)
    return results


def read_results(run: Run) -> dict[str, Any]:
    """What `results.json` of a finished run holds.

    Raises:
        RunError: the run has not come to its end, or has another checkpoint by now than the one that was scored.
    """
    path = run.workdir / RESULTS
    if not path.exists():
        raise RunError(
            f"{run.workdir} has no {RESULTS}, so the run is not finished; continue it with --resume"
        )
    results: dict[str, Any] = parse_json(path.read_bytes(), path)
    if results["step"] != run.state.step:
        raise RunError(
            f"{path} is of step {results['step']}, but the checkpoint to report on is of step {run.state.step}; finish "
            f"the run with --resume"
        )
    return results


def write_report(run: Run, results: dict[str, Any], rows: np.ndarray, embeddings: np.ndarray) -> Path:
    """Write `report.html` on the scores in `results` and the embeddings [n, D] of some rows [n]; returns its path."""
    path, part = run.workdir / "report.html", results.get("split", "test")
    labels = run.images.index.labels[rows]
    report.write(
        path,
        config=configs.to_dict(run.config),
        history=history.read(run.workdir / "metrics.jsonl"),
        results=results[part],
        split=part,
        baselines=list(results["baselines"].items()),
        embeddings=embeddings,
        labels=labels,
        clusters=cluster(embeddings, _clusters(run, rows)),
        images=next(run.images.read([rows])),
        class_names=run.images.index.class_names,
        files=[run.images.index.names[row] for row in rows],
        seen=seen.record(run.workdir).get("classes", ()),
    )
    return path


def whitened(run: Run, rows: np.ndarray, size: int) -> dict[str, dict[str, float]]:
    """Scores of some rows int [n] by PCA with whitening to `size` dimensions, and by what it was given.

    That is the run's whole embedding and, where its backbone is pretrained, the frozen features, as far as they are
    wider. PCA is fitted to the classes that the run learns from, all of whose images are embedded for it.

    Raises:
        ValueError: neither is wider.
    """
    whole = configs.override(run.config, {"eval.feature_size": 0})
    sources = {"embedding": replace(run, learner=replace(run.learner, config=whole)).embed}
    if run.config.model.weights:
        sources["frozen features"] = partial(frozen_features, run)
    both = np.concatenate([rows, run.images.rows(run.config.data.train_on)])
    found = {}
    for name, embed in sources.items():
        features, learned_from = np.split(embed(both), [len(rows)])
        if features.shape[1] > size:
            found[f"{name} ({features.shape[1]})"] = score(run, features, rows)
            found[f"{name}, PCA to {size}"] = score(run, whiten(features, learned_from, size), rows)
    if not found:
        raise ValueError(
            f"--whiten is {size}; it must be less than the dimensions of {' and of the '.join(sources)}"
        )
    return found


def _clusters(run: Run, rows: np.ndarray) -> int:
    """How many clusters K-means makes of some rows int [n]."""
    return len(np.unique(run.images.index.labels[rows])) * run.config.eval.clusters_per_class


def pixels_as_features(images: np.ndarray, side: int = 8) -> np.ndarray:
    """Mean colours on a grid: uint8 [n, S, S, 3] -> float32 [n, side * side * 3] in [0, 1]."""
    edges = np.linspace(0, images.shape[1], side + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(images, edges, axis=1, dtype=np.float32), edges, axis=2)
    counts = np.diff(np.append(edges, images.shape[1]))
    areas = (counts[:, None] * counts[None, :])[None, :, :, None]
    return (sums / areas / 255).reshape(len(images), -1).astype(np.float32)
