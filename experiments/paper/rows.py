"""The rows of the table of experiments, and the budgets that all of them share, as changes of one preset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

PRESET = "cub_squeezenet"
"""The preset that budgets and rows change."""

BUDGETS: dict[str, dict[str, Any]] = {
    # 7,200 images, which take a few minutes for each row on two CPU cores. 48 images are the original's 16 triplets.
    "small": {
        "data.stored_size": 128,
        "data.size": 96,
        "data.classes_per_batch": 8,
        "data.images_per_class": 6,
        "train.steps": 150,
        "train.eval_every": 75,
        "train.save_every": 75,
        "train.log_every": 1,
        "optim.warmup_steps": 15,
    },
    # 96,000 images, which a CPU can learn from because most stages are frozen.
    "large": {
        "model.backbone": "efficientnet_lite0",
        "model.weights": "auto",
        "model.batch_norm": "frozen",
        "model.frozen_stages": 6,
        "data.classes_per_batch": 16,
        "data.images_per_class": 6,
        "train.steps": 1000,
        "train.eval_every": 500,
        "train.save_every": 500,
        "train.log_every": 1,
        "optim.warmup_steps": 50,
    },
}
"""Options that all rows share. The checkpoints of both validations are kept, so that one training can serve several
numbers of clusters."""

LARGE_RATES = {"a_": 3e-4, "b_hinge": 1e-4, "b_square": 3e-4, "b_soft": 3e-5}
"""Learning rates of the budget large, by the beginning of the row's name: those of `rates.py`, which chose them on
validation classes. All other rows have that of the preset."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table, or several that differ in the number of clusters per class."""

    name: str
    title: str
    section: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options that differ from those of the budget."""
    features: str = ""
    """Features that are not trained: frozen, handcrafted or pixels."""
    clusters: tuple[int, ...] = (1,)
    """Clusters per class of model selection and of scoring. One training serves them all: each picks its own step."""
    original: tuple[str, ...] = ()
    """Shah 2017's row for each of `clusters`: a name from jaxml.reports.scores.PUBLISHED."""
    field: str = ""
    """What others published for the same loss, with network and dimensions."""
    batch: int = 1
    """Factor of the budget's batch; the steps are divided by it, so that all rows see equally many images."""


def changes(row: Row, budget: str) -> dict[str, Any]:
    """The options in which a row differs from `PRESET` under a budget, without seed and paths."""
    found = {**BUDGETS[budget], **row.changes}
    rates = [rate for start, rate in LARGE_RATES.items() if row.name.startswith(start)]
    if budget == "large" and rates:
        (found["optim.learning_rate"],) = rates
    if row.batch > 1:
        found["data.classes_per_batch"] *= row.batch
        for name in ("train.steps", "train.eval_every", "train.save_every", "optim.warmup_steps"):
            found[name] = round(found[name] / row.batch)
    return found


TRIPLETS = {"train.mode": "input_triplets", "triplets.regenerate_every": 50, "loss.name": "triplet"}
TRIPLET = {"loss.name": "triplet", "loss.options.margin": 0.2}
VOTING = {"loss.name": "soft_voting", "loss.options.margin": 0.2}
PROXIES = {"optim.groups": (("backbone/.*", 0.1), ("loss.*", 20.0))}
LOCAL = {"loss.options.mining": "local"}
FINAL = {"data.split": "poster", "data.train_on": "train+val"}

BASE, A, B = "Without training", "Model A: triplets at the input", "Model B: triplets at the output"
OTHERS, FUTURE = "Other losses", "The poster's future work"
POSTER = "The poster's split: 80 classes to train on, 40 to validate, 80 to test"


def _model_a(name: str, title: str, sampling: str, options: Mapping[str, Any] | None = None) -> Row:
    """A row with a way of choosing triplets before the network sees the images."""
    return Row(f"a_{name}", title, A, {**TRIPLETS, "triplets.sampling": sampling, **(options or {})})


def _model_b(name: str, title: str, options: Mapping[str, Any]) -> list[Row]:
    """Rows of a formula with all and with local positives, each with one and with three clusters per class."""
    return [
        Row(
            f"b_{name}{suffix}",
            f"{title}{more}",
            B,
            {**TRIPLET, **options, **mining},
            clusters=(1, 3),
            original=("" if suffix else f"{name}, 1 cluster", f"{name}, 3 clusters{more}"),
        )
        for suffix, more, mining in (("", "", {}), ("_local", ", local", LOCAL))
    ]


ROWS = [
    Row("pixels", "raw pixels, 8 x 8 means", BASE, features="pixels"),
    Row("handcrafted", "HOG and colour histograms", BASE, features="handcrafted"),
    Row(
        "frozen",
        "frozen pretrained features, 512-d",
        BASE,
        features="frozen",
        field="R@1 0.323, NMI 0.467 (BN-Inception, 64)",
    ),
    _model_a("random", "hinge, random", "random"),
    _model_a("hardest", "hinge, hardest", "hardest"),
    _model_a("semi_hard", "hinge, semi-hard (the original's)", "original_semi_hard"),
    _model_a("kmeans", "hinge, K-means", "kmeans"),
    *_model_b("hinge", "hinge", {}),
    *_model_b("square", "squared hinge", {"loss.options.formula": "squared_hinge"}),
    *_model_b("soft", "soft", {"loss.options.formula": "soft"}),
    Row("contrastive", "contrastive", OTHERS, {"loss.name": "contrastive"}),
    Row("lifted", "lifted structured", OTHERS, {"loss.name": "lifted"}, field="NMI 0.54, F1 0.20 (poster)"),
    Row(
        "n_pairs",
        "N-pairs",
        OTHERS,
        {"loss.name": "n_pairs"},
        field="R@1 0.590, NMI 0.654, F1 0.338 (ResNet-50, 128)",
    ),
    Row(
        "multi_similarity",
        "multi-similarity",
        OTHERS,
        {"loss.name": "multi_similarity"},
        field="R@1 0.574 (BN-Inception, 64)",
    ),
    Row(
        "proxy_anchor",
        "Proxy-Anchor",
        OTHERS,
        {"loss.name": "proxy_anchor", **PROXIES},
        field="R@1 0.699 (ResNet-50, 512)",
    ),
    Row("soft_triple", "SoftTriple", OTHERS, {"loss.name": "soft_triple", **PROXIES}),
    Row(
        "soft_voting",
        "hinge + soft voting, 1 key point a class",
        FUTURE,
        {**VOTING, "loss.options.num_centres": 1, **PROXIES},
    ),
    Row(
        "large_batch",
        "hinge, batch of 192 in chunks of 48",
        FUTURE,
        {**TRIPLET, "train.chunk": 48},
        batch=4,
    ),
    Row(
        "soft_voting_4",
        "hinge + soft voting, 4 key points a class",
        FUTURE,
        {**VOTING, "loss.options.num_centres": 4, **PROXIES},
    ),
    Row("poster_hinge", "hinge, best step on validation", POSTER, {**TRIPLET, "data.split": "poster"}),
    Row("poster_hinge_final", "hinge, trained on both parts", POSTER, {**TRIPLET, **FINAL}),
    Row(
        "poster_multi_similarity",
        "multi-similarity, best step on validation",
        POSTER,
        {"loss.name": "multi_similarity", "data.split": "poster"},
    ),
    Row(
        "poster_multi_similarity_final",
        "multi-similarity, trained on both parts",
        POSTER,
        {"loss.name": "multi_similarity", **FINAL},
    ),
    Row(
        "margin",
        "margin, distance weighted",
        OTHERS,
        {"loss.name": "margin", "loss.options.mining": "distance_weighted"},
        field="R@1 0.634, NMI 0.682, F1 0.387 (ResNet-50, 128)",
    ),
    Row(
        "semi_hard",
        "triplet, FaceNet semi-hard",
        OTHERS,
        {**TRIPLET, "loss.options.formula": "squared_hinge", "loss.options.mining": "semi_hard"},
        field="R@1 0.612, NMI 0.662, F1 0.355 (soft-hard; ResNet-50, 128)",
    ),
    *(
        Row(name, title, OTHERS, {"loss.name": name, **PROXIES})
        for name, title in (
            ("normalized_softmax", "normalised softmax"),
            ("cosface", "CosFace"),
            ("arcface", "ArcFace"),
            ("subcenter_arcface", "sub-centre ArcFace"),
        )
    ),
    *(
        Row(name, title, OTHERS, {"loss.name": name})
        for name, title in (
            ("circle", "circle"),
            ("ranked_list", "ranked list"),
            ("nca", "NCA, soft nearest neighbour"),
            ("smooth_ap", "Smooth-AP"),
            ("recall_at_k", "Recall@k surrogate"),
            ("fast_ap", "FastAP"),
        )
    ),
    _model_a("facenet", "hinge, semi-hard (FaceNet's)", "semi_hard"),
    _model_a("swap", "hinge, random, swapped in the triplet", "random", {"loss.options.swap": True}),
    _model_a("square", "squared hinge, random", "random", {"loss.options.formula": "squared_hinge"}),
    _model_a("ratio", "ratio, random", "random", {"loss.options.formula": "ratio"}),
]
