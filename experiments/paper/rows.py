"""The rows that `reproduce.py` runs, as data, and the budgets that all of them share."""

from __future__ import annotations

import dataclasses

BUDGETS = {
    # 7,200 images: a few minutes a row on two CPU cores. 48 images are the original's 16 triplets.
    "small": (
        "--preset cub_squeezenet --data.stored_size 128 --data.size 96 --data.classes_per_batch 8 "
        "--data.images_per_class 6 --train.steps 150 --train.eval_every 75 --train.save_every 75 --train.log_every 1 "
        "--optim.warmup_steps 15"
    ),
    # 96,000 images: minutes a row on a GPU.
    "large": (
        "--preset cub_squeezenet --data.classes_per_batch 16 --data.images_per_class 6 --train.steps 1000 "
        "--train.eval_every 500 --train.save_every 500 --train.log_every 1 --optim.warmup_steps 50"
    ),
}
"""Options of train.py that all rows share. Both validations' checkpoints are kept, so that a run can serve several
numbers of clusters."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table, or one for each number of clusters per class."""

    name: str
    title: str
    section: str
    words: tuple[str, ...] = ()
    """Options of train.py, after those of the budget."""
    features: str = ""
    """Features that are not trained: frozen, handcrafted or pixels."""
    clusters: tuple[int, ...] = (1,)
    """Clusters per class of model selection and of scoring. One training serves them all: each picks its own step."""
    original: tuple[str, ...] = ()
    """Shah 2017's row for each of `clusters`: a name from jaxml.reports.run.PUBLISHED."""
    field: str = ""
    """What others published for the same loss, with network and dimensions."""
    batch: int = 1
    """How many times the budget's batch; the steps are divided by it, so that all rows see as many images."""


def words(text: str) -> tuple[str, ...]:
    """The words of a command line without quotes."""
    return tuple(text.split())


TRIPLETS = (
    "--train.mode input_triplets --triplets.regenerate_every 50 --loss.name triplet --triplets.sampling "
)
TRIPLET = "--loss.name triplet --loss.options margin 0.2 "
PROXIES = " --optim.groups backbone/.* 0.1 loss.* 20"

BASE, A, B = "Without training", "Model A: triplets at the input", "Model B: triplets at the output"
OTHERS, FUTURE = "Other losses", "The poster's future work"
POSTER = "The poster's split: 80 classes to train on, 40 to validate, 80 to test"


def _model_b(name: str, title: str, options: str) -> list[Row]:
    """A formula with all and with local positives, each for one and three clusters per class."""
    return [
        Row(
            f"b_{name}{suffix}",
            f"{title}{more}",
            B,
            words(TRIPLET + options + mining),
            clusters=(1, 3),
            original=("" if suffix else f"{name}, 1 cluster", f"{name}, 3 clusters{more}"),
        )
        for suffix, more, mining in (("", "", ""), ("_local", ", local", " mining local"))
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
    Row("a_random", "hinge, random", A, words(TRIPLETS + "random")),
    Row("a_hardest", "hinge, hardest", A, words(TRIPLETS + "hardest")),
    Row("a_semi_hard", "hinge, semi-hard (the original's)", A, words(TRIPLETS + "original_semi_hard")),
    Row("a_kmeans", "hinge, K-means", A, words(TRIPLETS + "kmeans")),
    *_model_b("hinge", "hinge", ""),
    *_model_b("square", "squared hinge", "formula squared_hinge"),
    *_model_b("soft", "soft", "formula soft"),
    Row("contrastive", "contrastive", OTHERS, words("--loss.name contrastive")),
    Row(
        "lifted", "lifted structured", OTHERS, words("--loss.name lifted"), field="NMI 0.54, F1 0.20 (poster)"
    ),
    Row(
        "n_pairs",
        "N-pairs",
        OTHERS,
        words("--loss.name n_pairs"),
        field="R@1 0.590, NMI 0.654, F1 0.338 (ResNet-50, 128)",
    ),
    Row(
        "multi_similarity",
        "multi-similarity",
        OTHERS,
        words("--loss.name multi_similarity"),
        field="R@1 0.574 (BN-Inception, 64)",
    ),
    Row(
        "proxy_anchor",
        "Proxy-Anchor",
        OTHERS,
        words("--loss.name proxy_anchor" + PROXIES),
        field="R@1 0.699 (ResNet-50, 512)",
    ),
    Row("soft_triple", "SoftTriple", OTHERS, words("--loss.name soft_triple" + PROXIES)),
    Row(
        "soft_voting",
        "hinge + soft voting, 1 key point a class",
        FUTURE,
        words("--loss.name soft_voting --loss.options margin 0.2 num_centres 1" + PROXIES),
    ),
    Row(
        "large_batch",
        "hinge, batch of 192 in chunks of 48",
        FUTURE,
        words(TRIPLET + "--train.chunk 48"),
        batch=4,
    ),
    Row(
        "soft_voting_4",
        "hinge + soft voting, 4 key points a class",
        FUTURE,
        words("--loss.name soft_voting --loss.options margin 0.2 num_centres 4" + PROXIES),
    ),
    Row("poster_hinge", "hinge, best step on validation", POSTER, words(TRIPLET + "--data.split poster")),
    Row(
        "poster_hinge_final",
        "hinge, trained on both parts",
        POSTER,
        words(TRIPLET + "--data.split poster --data.train_on train+val"),
    ),
    Row(
        "poster_multi_similarity",
        "multi-similarity, best step on validation",
        POSTER,
        words("--loss.name multi_similarity --data.split poster"),
    ),
    Row(
        "poster_multi_similarity_final",
        "multi-similarity, trained on both parts",
        POSTER,
        words("--loss.name multi_similarity --data.split poster --data.train_on train+val"),
    ),
    Row(
        "margin",
        "margin, distance weighted",
        OTHERS,
        words("--loss.name margin --loss.options mining distance_weighted"),
        field="R@1 0.634, NMI 0.682, F1 0.387 (ResNet-50, 128)",
    ),
    Row(
        "semi_hard",
        "triplet, FaceNet semi-hard",
        OTHERS,
        words(TRIPLET + "formula squared_hinge mining semi_hard"),
        field="R@1 0.612, NMI 0.662, F1 0.355 (soft-hard; ResNet-50, 128)",
    ),
    Row("a_facenet", "hinge, semi-hard (FaceNet's)", A, words(TRIPLETS + "semi_hard")),
    Row(
        "a_swap",
        "hinge, random, swapped in the triplet",
        A,
        words(TRIPLETS + "random --loss.options swap True"),
    ),
    Row(
        "a_square",
        "squared hinge, random",
        A,
        words(TRIPLETS + "random --loss.options formula squared_hinge"),
    ),
    Row("a_ratio", "ratio, random", A, words(TRIPLETS + "random --loss.options formula ratio")),
]
