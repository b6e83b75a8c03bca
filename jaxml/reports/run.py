"""What a run learned, as one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxml.evaluation import clustering as evaluate
from jaxml.evaluation import metrics
from jaxml.evaluation.neighbours import neighbours
from jaxml.reports import figures, page

QUERIES = 10
NEIGHBOURS = 10
MISTAKES = 12
MAPPED_CLASSES = 150

CLUSTERING = {"nmi": "NMI", "ami": "AMI", "ari": "ARI", "f1": "F1 (pairs)", "purity": "Purity"}
RETRIEVAL = {**{f"recall@{k}": f"R@{k}" for k in metrics.KS}, "r_precision": "R-precision", "map@r": "MAP@R"}
ORIGINAL = {
    "original_nmi": "NMI (uses labels)",
    "original_f1": '"F1", accuracy (uses labels)',
    "recall@1": "R@1",
    "recall@8": "R@8",
}
CUB = ("cub", "caltech_birds2011")
# Shah 2017, CUB-200-2011 classes 101-200, Inception v3, 64 dimensions, by loss and clusters per class.
PUBLISHED = {
    "hinge, 1 cluster": (0.351, 0.174, 0.188, 0.514),
    "hinge, 3 clusters": (0.385, 0.238, 0.200, 0.525),
    "hinge, 3 clusters, local": (0.353, 0.212, 0.176, 0.502),
    "square, 1 cluster": (0.253, 0.119, 0.117, 0.384),
    "square, 3 clusters": (0.284, 0.168, 0.117, 0.384),
    "square, 3 clusters, local": (0.275, 0.164, 0.118, 0.384),
    "soft, 1 cluster": (0.308, 0.147, 0.160, 0.479),
    "soft, 3 clusters": (0.350, 0.214, 0.171, 0.495),
    "soft, 3 clusters, local": (0.353, 0.215, 0.172, 0.501),
}
# State of the art as the poster of Shah 2017 quotes it; for lifted structure's F1, 0.19 to 0.20, the upper end.
PUBLISHED_LABEL_FREE = {
    "published: contrastive pairs": {"nmi": 0.46, "f1": 0.12},
    "published: triplet": {"nmi": 0.50, "f1": 0.16},
    "published: lifted structure": {"nmi": 0.54, "f1": 0.20},
}
OURS = "this run"


def write(
    path: str | Path,
    *,
    config: Mapping[str, Mapping[str, Any]],
    history: Sequence[Mapping[str, float]],
    results: Mapping[str, float],
    embeddings: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    class_names: Sequence[str],
    clusters: np.ndarray | None = None,
    baselines: Sequence[tuple[str, Mapping[str, float]]] = (),
    split: str = "test",
    seed: int = 0,
) -> None:
    """Write the report of one run on one split to `path`, one HTML file without external resources.

    config: nested dict of `config.to_dict`. history: rows of metrics.jsonl, with `step` and any of `loss`,
    `active_share`, `images_per_second`, `val_nmi`. results: what `evaluate.evaluate` returned; baselines: (name,
    the same for other embeddings of these images). embeddings [N, D], labels int [N], images uint8
    [N, s, s, 3], class_names[label]. clusters int [N], by default the first of the K-means runs that
    `evaluate.evaluate` scores with this seed. Pictures are chosen at random by `seed`, the same for every run.
    Raises ValueError where lengths differ or a label has no name.
    """
    labels, embeddings, images = np.asarray(labels), np.asarray(embeddings), np.asarray(images)
    if not len(embeddings) == len(labels) == len(images) > 0:
        raise ValueError(
            f"embeddings, labels and images must have one length above 0; "
            f"got {len(embeddings)}, {len(labels)} and {len(images)}"
        )
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be uint8 [N, s, s, 3]; got {images.dtype} {list(images.shape)}")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(f"labels reach {labels.max()}, but class_names has {len(class_names)} names")
    if clusters is None:
        num_clusters = len(np.unique(labels)) * config["eval"]["clusters_per_class"]
        clusters = evaluate.cluster(embeddings, num_clusters, seed=seed)
    names = [readable(class_names[label]) for label in labels]
    title = f"{config['model']['backbone']} on {config['data']['source']}: clusters of unseen classes"
    parts = [
        _summary(config, history, results, labels, split, baselines),
        _tables(config, results, baselines),
        _curves(history),
        page.section(
            "Map of the embeddings",
            "Near each other means alike to the network. Each place shows one picture; the colour of the frame "
            "goes by class, and the class name appears on hovering. Scroll sideways on a small screen.",
            f'<div class="scroll map">{figures.picture_map(embeddings, labels, images, names, seed=seed)}</div>',
        ),
        _class_map(embeddings, labels, images, names, seed),
        _queries(embeddings, labels, images, names, seed),
        _mistakes(embeddings, labels, images, names, np.asarray(clusters), seed),
        page.section("Configuration", "", page.options({k: dict(v) for k, v in config.items()})),
    ]
    Path(path).write_text(page.document(title, *parts), encoding="utf-8")


def readable(class_name: str) -> str:
    """A class name for people: 001.Black_footed_Albatross becomes Black footed Albatross."""
    return re.sub(r"^\d{3}\.(?=\D)", "", class_name).replace("_", " ").strip() or class_name


def number(values: Mapping[str, float], name: str) -> str:
    """A metric to three digits with its deviation, or a dash where it was not measured."""
    if name not in values or np.isnan(values[name]):
        return page.DASH
    deviation = values.get(f"{name}_std")
    return f"{values[name]:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")


def _summary(config, history, results, labels, split, baselines) -> str:
    train = config["train"]
    facts = (
        f"{len(labels):,} images of {len(np.unique(labels))} {split} classes, none of which was trained on. "
        f"Loss {config['loss']['name']}, {config['model']['feature_size']} dimensions, {train['steps']:,} steps of "
        f"{config['data']['classes_per_batch']} classes {page.TIMES} {config['data']['images_per_class']} images, "
        f"seed {train['seed']}."
    )
    against = f"; {baselines[0][0]} {number(baselines[0][1], 'nmi').split(' ±')[0]}" if baselines else ""
    tiles = [
        (number(results, "nmi").split(" ±")[0], "NMI of K-means clusters" + against),
        (number(results, "f1").split(" ±")[0], "pairwise F1 of the clusters"),
        (number(results, "recall@1").split(" ±")[0], "Recall@1: nearest image is right"),
        (number(results, "purity").split(" ±")[0], "purity of the clusters"),
    ]
    speeds = [row["images_per_second"] for row in history if "images_per_second" in row]
    if speeds:
        tiles.append((f"{np.median(speeds):,.0f}", "images per second in training (median)"))
    return f"<p>{page.escape(facts)}</p>\n{page.tiles(tiles)}"


def _tables(config, results, baselines) -> str:
    runs = [(OURS, results), *baselines]
    cub = config["data"]["source"] in CUB
    published = list(PUBLISHED_LABEL_FREE.items()) if cub else []
    quoted = (
        " Published rows: the state of the art in 2017 as the original's poster quotes it." if cub else ""
    )
    parts = [
        page.section(
            "Metrics",
            f"K-means without labels (k-means++), clusters per class: {config['eval']['clusters_per_class']}; mean ± "
            "standard deviation over its seeds. Recall@K (R@K), R-precision and MAP@R rank the other images by "
            "distance; images that are alone in their class are left out of them." + quoted,
            _table(CLUSTERING, [*runs, *published]),
            _table(RETRIEVAL, runs),
        )
    ]
    if "original_nmi" in results:
        rows = [(name, values) for name, values in runs if "original_nmi" in values]
        note = (
            "NMI and accuracy here start K-means from images chosen by their true label and name clusters by "
            "majority class, as the original work did. They flatter; compare them with nothing else."
        )
        if cub:
            rows += [
                (f"Shah 2017: {name}", dict(zip(ORIGINAL, values, strict=True)))
                for name, values in PUBLISHED.items()
            ]
            note += (
                " Published rows: Inception v3, 64 dimensions, classes 101-200; local: local positives only."
            )
            if config["data"]["split"] != "standard":
                note += " This run was tested on other classes."
        flag = '<p><span class="flag">⚠ uses labels</span></p>'
        parts.append(page.section("In the original's way of counting", note, flag, _table(ORIGINAL, rows)))
    return "\n".join(parts)


def _table(columns: Mapping[str, str], rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    cells = [(name, [number(values, key) for key in columns]) for name, values in rows]
    return page.table(list(columns.values()), cells, ours=(OURS,))


def _curves(history) -> str:
    charts = ""
    for key, title, options in (
        ("loss", "Training loss", {}),
        ("active_share", "Share of triplets that are active", {"share": True}),
        ("val_nmi", "NMI on validation classes", {"best": True}),
    ):
        points = {row["step"]: row[key] for row in history if key in row}
        steps = sorted(points)
        charts += f"<figure>{figures.curve(steps, [points[s] for s in steps], title, **options)}</figure>"
    return page.section("Training", "", f'<div class="charts">{charts}</div>')


def _class_map(embeddings, labels, images, names, seed) -> str:
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    classes = np.random.default_rng(seed).permutation(np.unique(labels))[:MAPPED_CLASSES]
    means, central = [], []
    for c in classes:
        members = np.flatnonzero(labels == c)
        means.append(embeddings[members].mean(0))
        central.append(members[((embeddings[members] - means[-1][None, :]) ** 2).sum(1).argmin()])
    xy = figures.plane(np.stack(means), seed)
    xy = (xy - xy.min(0, keepdims=True)) / np.maximum(np.ptp(xy, axis=0, keepdims=True), 1e-12)
    columns = int(np.ceil(np.sqrt(1.2 * len(classes))))
    count = -(-len(classes) // columns)
    cells = np.stack(np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, count)), axis=-1).reshape(
        -1, 2
    )
    placed = dict(zip(*reversed(linear_sum_assignment(cdist(xy, cells, "sqeuclidean"))), strict=True))
    pictures = "".join(
        page.picture(images[central[placed[i]]], names[central[placed[i]]])
        if i in placed
        else "<span></span>"
        for i in range(len(cells))
    )
    style = f"display:grid;grid-template-columns:repeat({columns},minmax(86px,1fr));gap:.4rem"
    return page.section(
        "Map of the classes",
        "The most central picture of each class. Classes whose mean embeddings are near lie near each other, "
        "as far as a full grid allows.",
        f'<div class="scroll"><div style="{style}">{pictures}</div></div>',
    )


def _queries(embeddings, labels, images, names, seed) -> str:
    classes, sizes = np.unique(labels, return_counts=True)
    rng = np.random.default_rng(seed)
    asked = np.sort(rng.permutation(classes[sizes > 1])[:QUERIES])
    queries = np.array([rng.choice(np.flatnonzero(labels == c)) for c in asked], int)
    rows = ""
    for block, near in neighbours(embeddings, NEIGHBOURS, queries):
        for q, found in zip(block, near, strict=True):
            strip = "".join(
                page.picture(images[n], names[n], kind="right" if labels[n] == labels[q] else "wrong")
                for n in found
            )
            query = page.picture(images[q], names[q], "query:", "query")
            rows += f'<div class="row">{query}<div class="strip">{strip}</div></div>\n'
    return page.section(
        "Nearest pictures",
        "Random queries, one per class, and the nearest pictures in order. Right class: solid green frame and ✓; "
        "wrong class: dashed red frame and ✗.",
        f'<div class="rows">{rows or "No class has two images, so there is nothing to find."}</div>',
    )


def _mistakes(embeddings, labels, images, names, clusters, seed) -> str:
    majority = metrics.majority_class(clusters, labels)
    misplaced = np.flatnonzero(majority != labels)
    shown: dict[int, int] = {}
    for n in np.random.default_rng(seed).permutation(misplaced):
        shown.setdefault(int(clusters[n]), int(n))
    cards = ""
    for cluster, n in list(shown.items())[:MISTAKES]:
        members = np.flatnonzero(clusters == cluster)
        typical = members[labels[members] == majority[n]]
        offsets = embeddings[typical] - embeddings[members].mean(0, keepdims=True)
        centre = typical[(offsets**2).sum(1).argmin()]
        share = f"put with {len(typical)} of {len(members)}:"
        cards += (
            f'<div class="card">{page.picture(images[n], names[n], "this is", "wrong")}'
            f'<span class="arrow" aria-hidden="true">→</span>{page.picture(images[centre], names[centre], share)}'
            "</div>\n"
        )
    return page.section(
        "Incorrectly clustered images",
        f"{len(misplaced):,} of {len(labels):,} images ({len(misplaced) / len(labels):.0%}) are in a cluster whose "
        "majority is another class. A random one from each of some clusters, and that cluster's majority class: how "
        "many of its images are of that class, and the most central of them.",
        f'<div class="cards">{cards or "No image is in a cluster of another class."}</div>',
    )
