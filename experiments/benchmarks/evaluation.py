"""Measures the scoring of a made-up data set of the size of Stanford Online Products.

    python -m experiments.benchmarks.evaluation
    python -m experiments.benchmarks.evaluation --share 0.25 --peers
    python -m experiments.benchmarks.evaluation --search

The first scores 60,502 embeddings of 64 dimensions of 11,316 classes with 2 to 12 images each, whose noise gives a
Recall@1 of about 0.75, as a run does at its end. `--peers` compares the neighbours and one K-means with those of
scikit-learn and, where it is installed, faiss, in one process: time, inertia and NMI. `--search` finds the 100 nearest
of a million embeddings of 128 dimensions for 10,000 queries, beside faiss, by which our search is as well where it is
installed; and those of one query in an index that was saved. Writes evaluation.json into OUT.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxml import metrics
from jaxml.commands.options import parse
from jaxml.commands.process import command
from jaxml.evaluation import clustering, kmeans
from jaxml.evaluation.neighbours import neighbours
from jaxml.files import write_json
from jaxml.inference import Index

IMAGES, CLASSES, WIDTH, NOISE = 60_502, 11_316, 64, 1.05


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to measure."""

    share: float = 1.0
    """Of images and classes."""
    peers: bool = False
    """Compare with scikit-learn and faiss in place of scoring everything."""
    search: bool = False
    """Search among a million embeddings in place of scoring."""
    out: Path = Path("benchmarks")
    """Folder for evaluation.json."""


def products(share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings float32 [N, 64] of unit length, and labels int [N], of classes of 2 to 12 images."""
    rng = np.random.default_rng(seed)
    count, classes = round(share * IMAGES), round(share * CLASSES)
    sizes = np.full(classes, 2)
    while (left := count - sizes.sum()) > 0:
        growing = rng.permutation(np.flatnonzero(sizes < 12))[:left]
        sizes[growing] += rng.random(len(growing)) < 0.5
    labels = rng.permutation(np.repeat(np.arange(classes), sizes))
    x = rng.normal(size=(classes, WIDTH))[labels] + NOISE * rng.normal(size=(count, WIDTH))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def timed(name: str, run: Callable[[], Any], found: dict[str, Any]) -> Any:
    """What a call returns; its seconds are printed and kept."""
    start = time.perf_counter()
    result = run()
    found[f"{name}, s"] = round(time.perf_counter() - start, 2)
    print(f"{name:48}{found[f'{name}, s']:10.2f} s", flush=True)
    return result


def score(share: float, found: dict[str, Any]) -> None:
    """Everything that `evaluate` measures, and its parts."""
    x, labels = products(share)
    found.update(
        images=len(x),
        classes=int(labels.max()) + 1,
        engine=clustering.engine(int(labels.max()) + 1, clustering.STARTS),
    )
    timed("neighbours, 32 of each", lambda: metrics.retrieval(x, labels), found)
    timed("evaluate", lambda: found.update(scores=clustering.evaluate(x, labels)), found)
    found["memory, GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compare(share: float, found: dict[str, Any]) -> None:
    """Neighbours and one K-means beside those of peers."""
    from sklearn.cluster import KMeans
    from sklearn.neighbors import NearestNeighbors

    x, labels = products(share)
    count = int(labels.max()) + 1
    found.update(images=len(x), classes=count)

    def ours() -> np.ndarray:
        return np.concatenate([near for _, near in neighbours(x, 32)])

    def of_scikit_learn() -> np.ndarray:
        near = NearestNeighbors(n_neighbors=33, algorithm="brute", n_jobs=-1).fit(x).kneighbors(x)[1]
        return np.asarray(near[:, 1:])

    near = timed("neighbours: jaxml", ours, found)
    theirs = timed("neighbours: scikit-learn", of_scikit_learn, found)
    found["neighbours: scikit-learn, the same"] = float((near == theirs).mean())

    def clusters() -> tuple[np.ndarray, float]:
        return kmeans.kmeans(x, kmeans.spread(x, count, 0), iterations=25)

    fits = {"jaxml": clusters}

    def by_scikit_learn() -> tuple[np.ndarray, float]:
        fit = KMeans(count, n_init=1, max_iter=25, random_state=0).fit(x)
        return fit.labels_, float(fit.inertia_)

    fits["scikit-learn"] = by_scikit_learn
    if importlib.util.find_spec("faiss"):
        import faiss

        def of_faiss() -> np.ndarray:
            index = faiss.IndexFlatL2(x.shape[1])
            index.add(x)
            return np.asarray(index.search(x, 33)[1][:, 1:])

        theirs = timed("neighbours: faiss", of_faiss, found)
        found["neighbours: faiss, the same"] = float((near == theirs).mean())

        def by_faiss() -> tuple[np.ndarray, float]:
            fit = faiss.Kmeans(x.shape[1], count, niter=25, seed=0, max_points_per_centroid=len(x))
            fit.train(x)
            distances, assigned = fit.index.search(x, 1)
            return assigned[:, 0], float(distances.sum())

        fits["faiss"] = by_faiss
    for name, fit in fits.items():
        assigned, inertia = timed(f"K-means: {name}", fit, found)
        found[f"K-means: {name}, inertia"] = inertia
        found[f"K-means: {name}, NMI"] = metrics.nmi(assigned, labels)


def search(share: float, found: dict[str, Any]) -> None:
    """The 100 nearest of a million for 10,000 queries."""
    rng = np.random.default_rng(0)
    size = round(share * 1_000_000)
    centres = rng.normal(size=(10_000, 128)).astype(np.float32)
    x = centres[rng.integers(0, 10_000, size + 10_000)] + rng.normal(size=(size + 10_000, 128)).astype(
        np.float32
    )
    gallery, queries = np.arange(size), np.arange(size, size + 10_000)
    near = timed(
        "search: jaxml",
        lambda: np.concatenate([near for _, near in neighbours(x, 100, queries, gallery)]),
        found,
    )
    if importlib.util.find_spec("faiss"):
        import faiss

        def of_faiss() -> np.ndarray:
            index = faiss.IndexFlatL2(128)
            index.add(x[:size])
            return np.asarray(index.search(x[size:], 100)[1])

        theirs = timed("search: faiss", of_faiss, found)
        found["search: faiss, the same"] = float((near == theirs).mean())
    found["memory, GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with tempfile.TemporaryDirectory() as folder:
        Index([f"{i:07d}.jpg" for i in range(size)], x[:size], "made up").save(f"{folder}/index")
        index = timed("index: load", lambda: Index.load(f"{folder}/index"), found)
        times = []
        for query in x[size : size + 21]:
            start = time.perf_counter()
            index.search(query, 100)
            times.append(time.perf_counter() - start)
        found["index: one query, ms"] = round(1000 * float(np.median(times)), 1)


def main(words: list[str]) -> None:
    """Measure what is asked for, and write it down."""
    arguments = parse(Arguments, words, __doc__)
    found: dict[str, Any] = {}
    measure = compare if arguments.peers else search if arguments.search else score
    measure(arguments.share, found)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "evaluation.json", found)
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    command(main)
