"""Triplets at the network's input (Model A of Shah 2017): lists drawn on the host, a pure function of their arguments.

A list serves `triplets.regenerate_every` steps. The first is random; each later one is drawn with the embeddings that
the network then gives the training images, and written to `triplets/STEP.npz` in the run's directory, so that a run
that resumes in between goes on with the same list.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from jaxml import distributed
from jaxml.errors import CheckpointError
from jaxml.evaluation import metrics
from jaxml.evaluation.clustering import cluster
from jaxml.files import replacing
from jaxml.models.weights import readers
from jaxml.training.run import Run

CANDIDATES = 20
"""Random triplets looked at for each triplet of a list; the hard ones are chosen from them."""


def draw(
    labels: np.ndarray,
    count: int,
    embeddings: np.ndarray | None,
    *,
    sampling: str,
    hard_share: float,
    margin: float,
    seed: int,
    step: int,
) -> np.ndarray:
    """A list of triplets int32 [count, 3] (anchor, positive, negative), places in labels int [N].

    `hard_share` of them are hard, the others random, in random order; all are random if `sampling` is random or
    there are no embeddings [N, D], and where too few hard ones are found. With d the Euclidean distance:
        hardest: of 20 `count` random triplets those of least d_an
        semi_hard: d_ap < d_an < d_ap + margin (Schroff et al. 2015, section 3.2)
        original_semi_hard: d_an < d_ap (Shah 2017)
        kmeans: the negative is an image that K-means, with a cluster per class, put into a cluster whose majority is
            the anchor's class; the anchor was clustered correctly (Shah 2017)

    Raises:
        ValueError: there are fewer than two classes, or no class has two images.
    """
    rng, classes = np.random.default_rng([seed, step]), _Classes(labels)
    wanted, hard = round(hard_share * count), np.zeros((0, 3), np.int32)
    if embeddings is not None and sampling == "kmeans":
        clusters = cluster(embeddings, len(classes.sizes), seed=seed, n_init=3)
        hard = _misclustered(rng, classes, clusters, wanted)
    elif embeddings is not None and sampling != "random":
        hard = _hard(_random(rng, classes, CANDIDATES * count), embeddings, wanted, sampling, margin)
    return rng.permutation(np.concatenate([hard, _random(rng, classes, count - len(hard))]))


class _Classes:
    """Images [N] by class."""

    def __init__(self, labels: np.ndarray):
        _, self.of, self.sizes = np.unique(labels, return_inverse=True, return_counts=True)
        if len(self.sizes) < 2 or self.sizes.max() < 2:
            raise ValueError("triplets need two classes to train on, one of them with two images")
        self._order = np.argsort(self.of, kind="stable")
        self._starts = np.cumsum(self.sizes) - self.sizes
        self._place = np.empty(len(labels), int)
        self._place[self._order] = np.arange(len(labels)) - self._starts[self.of[self._order]]

    def positives(self, rng: np.random.Generator, anchors: np.ndarray) -> np.ndarray:
        """For each anchor a random other image of its class, which must have one."""
        own = self.of[anchors]
        turn = rng.integers(1, self.sizes[own])
        return self._order[self._starts[own] + (self._place[anchors] + turn) % self.sizes[own]]

    def negatives(self, rng: np.random.Generator, anchors: np.ndarray) -> np.ndarray:
        """For each anchor a random image of another class."""
        own = self.of[anchors]
        place = rng.integers(0, len(self.of) - self.sizes[own])
        # In the order of classes the anchor's own is jumped over.
        return self._order[np.where(place < self._starts[own], place, place + self.sizes[own])]


def _random(rng: np.random.Generator, classes: _Classes, count: int) -> np.ndarray:
    """Random triplets int32 [count, 3]."""
    anchors = rng.choice(np.flatnonzero(classes.sizes[classes.of] > 1), count)
    positives, negatives = classes.positives(rng, anchors), classes.negatives(rng, anchors)
    return np.stack([anchors, positives, negatives], axis=1).astype(np.int32)


def _hard(
    candidates: np.ndarray, embeddings: np.ndarray, wanted: int, sampling: str, margin: float
) -> np.ndarray:
    """At most `wanted` hard ones of the candidates int32 [n, 3], given the embeddings [N, D]."""
    a, p, n = (np.asarray(embeddings, np.float32)[candidates[:, i]] for i in range(3))
    d_ap, d_an = np.linalg.norm(a - p, axis=1), np.linalg.norm(a - n, axis=1)
    if sampling == "hardest":
        return candidates[np.argsort(d_an, kind="stable")[:wanted]]
    if sampling == "original_semi_hard":
        return candidates[d_an < d_ap][:wanted]
    return candidates[(d_ap < d_an) & (d_an < d_ap + margin)][:wanted]


def _misclustered(
    rng: np.random.Generator, classes: _Classes, clusters: np.ndarray, wanted: int
) -> np.ndarray:
    """Triplets int32 [wanted, 3] (or [0, 3]) whose negative lies in a cluster of the anchor's class."""
    named = metrics.majority_class(clusters, classes.of)
    right = np.flatnonzero((named == classes.of) & (classes.sizes[classes.of] > 1))
    anchors = {c: right[classes.of[right] == c] for c in np.unique(classes.of[right])}
    wrong = np.flatnonzero((named != classes.of) & np.isin(named, list(anchors)))
    if not len(wrong):
        return np.zeros((0, 3), np.int32)
    negatives = rng.choice(wrong, wanted)
    chosen = np.array([rng.choice(anchors[named[n]]) for n in negatives], int)
    return np.stack([chosen, classes.positives(rng, chosen), negatives], axis=1).astype(np.int32)


def batches(run: Run, first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches (pixels uint8 [b, S, S, 3], labels int [b]) of the steps from `first` on.

    b is `data.classes_per_batch` x `data.images_per_class`, a third of it triplets, whose rows are adjacent.

    Raises:
        CheckpointError: a list that a resumed run needs is missing or damaged.
    """
    config, labels = run.config, run.images.index.labels
    every, steps = config.triplets.regenerate_every, config.train.steps
    per_batch = config.data.classes_per_batch * config.data.images_per_class // 3
    own = run.images.rows(config.data.train_on)

    def drawn(start: int, embeddings: np.ndarray | None) -> None:
        """Draw the list that begins at step `start`, and write it."""
        found = draw(
            labels[own],
            every * per_batch,
            embeddings,
            sampling=config.triplets.sampling,
            hard_share=config.triplets.hard_share,
            margin=float(dict(config.loss.options).get("margin", 0.2)),
            seed=config.train.seed,
            step=start,
        )
        _save(_path(run, start), own[found])

    def read(start: int) -> np.ndarray:
        """The list that begins at step `start`, int [every, b], a row for each of its steps."""
        return _load(_path(run, start), every * per_batch, len(labels)).reshape(every, 3 * per_batch)

    for start in range(first - first % every, steps, every):
        if start >= first:
            choosing = start and config.triplets.sampling != "random"
            # By the network that learns, whose triplets these are, and not by its averages.
            embeddings = run.embed(own, run.state._replace(averages=None)) if choosing else None
            distributed.on_main(partial(drawn, start, embeddings))
        rows = distributed.on_main(partial(read, start))[max(first - start, 0) : steps - start]
        for chosen, pixels in zip(rows, run.images.read(map(distributed.share, rows)), strict=True):
            yield pixels, labels[distributed.share(chosen)]


def _path(run: Run, start: int) -> Path:
    return run.workdir / "triplets" / f"{start}.npz"


def _save(path: Path, found: np.ndarray) -> None:
    """Write a list whole or not at all; the format carries a checksum."""
    with replacing(path, "wb") as file:
        np.savez(file, triplets=found.astype(np.int64))


def _load(path: Path, count: int, images: int) -> np.ndarray:
    """A list int64 [count, 3] of rows under `images`; CheckpointError if the file holds anything else."""
    try:
        with path.open("rb") as file:
            found = readers.parse_npz(file, path.stat().st_size)[0]["triplets"]
        if found.shape != (count, 3) or found.dtype != np.int64:
            raise ValueError(f"not {count} triplets")
        if count and not 0 <= found.min() <= found.max() < images:
            raise ValueError(f"not all of them of {images} images")
        return found
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is missing or damaged ({error}), and without it the run cannot go on as it began: "
            f"start a new run in another --workdir"
        ) from error
