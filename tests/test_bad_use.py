"""Every public function with invalid arguments: one ValueError that names the argument. New functions must be added."""

import dataclasses
import inspect
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import config, distances, losses
from jaxml.config import Config
from jaxml.config.values import FLOAT32
from jaxml.data import augment, sampling, splits
from jaxml.evaluation import clustering as evaluate
from jaxml.evaluation import metrics, neighbours

N, D = 8, 4
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
Y = np.arange(N, dtype=np.int32) % 3
WITH_NAN = np.where(np.arange(N)[:, None] == 2, np.nan, X)
IMAGES = np.zeros((2, 6, 6, 3), np.uint8)
KEYS = jax.random.split(jax.random.key(0), 2)
TABLE = sampling.class_table(Y, np.arange(3))

TEXT = ["text", None, [[1.0, 2.0], [3.0]]]
MATRIX = [*TEXT, X[0], X[:0], X[None], X.astype(int)]
HOST_MATRIX = [*TEXT, X[0], X[:0], X[None], WITH_NAN, np.full((N, D), "a")]
LABELS = [*TEXT, Y[:-1], Y[:, None], Y.astype(float), Y[:0]]
TOO_LARGE = [Y + np.int64(2**40), Y - np.int64(2**40), jnp.full(N, 2**31, jnp.uint32)]  # for an int32
CLUSTERS = [*TEXT, Y[:-1], Y[:, None], Y[:0], Y + np.nan]
GROUPS = [wrong for wrong in CLUSTERS if wrong is not None]
PLACES = ["text", [[1.0, 2.0], [3.0]], [[1]], [N], [-1], [0.5]]
SCORED = {"embeddings": HOST_MATRIX, "labels": CLUSTERS}
PROTOCOL = {"queries": PLACES, "gallery": PLACES, "groups": GROUPS}
POSITIVE = ["x", None, 0, -1, float("nan"), 1.5]
NUMBER = ["x", None, float("nan"), float("inf"), [1.0, 2.0]]
CHOICE = ["nonsense", None, 3, ""]
IMAGE = [*TEXT, IMAGES[0], IMAGES.astype(np.float32), IMAGES[..., :1], IMAGES[:, :3]]

# Function, valid arguments, and invalid values for each argument that is checked.
CASES = {
    distances.pairwise: (
        {"x": X, "y": X, "distance": "cosine"},
        {"x": MATRIX[:4], "y": MATRIX[:4], "distance": CHOICE},
    ),
    distances.rowwise: (
        {"x": X, "y": X, "distance": "cosine"},
        {"x": [*TEXT, X[:, :3]], "y": TEXT, "distance": CHOICE},
    ),
    distances.l2_normalize: ({"x": X}, {"x": [*TEXT, np.float32(1)]}),
    metrics.contingency: ({"clusters": Y, "labels": Y}, {"clusters": CLUSTERS, "labels": CLUSTERS}),
    metrics.retrieval: (
        {"embeddings": X, "labels": Y},
        {**SCORED, **PROTOCOL, "depth": POSITIVE},
    ),
    metrics.fnmr_at_fmr: (
        {"embeddings": X, "labels": Y},
        {**SCORED, **PROTOCOL, "rates": [TEXT[0], None, [], [0.0], [1.0], [float("nan")]]},
    ),
    metrics.recall_at_k: (
        {"embeddings": X, "labels": Y, "ks": (1,)},
        {"embeddings": HOST_MATRIX, "labels": CLUSTERS, "ks": [(), (0,), ("x",), (1.5,), None, 3]},
    ),
    metrics.precision_at_k: (
        {"embeddings": X, "labels": Y, "ks": (1,)},
        {"embeddings": HOST_MATRIX, "labels": CLUSTERS, "ks": [(), (0,), ("x",), (1.5,), None, 3]},
    ),
    neighbours.neighbours: (
        {"embeddings": X, "k": 2},
        {"embeddings": HOST_MATRIX, "k": POSITIVE, **PROTOCOL},
    ),
    evaluate.engine: ({"num_clusters": 2, "starts": 3}, {"num_clusters": POSITIVE, "starts": POSITIVE}),
    evaluate.cluster: (
        {"embeddings": X, "num_clusters": 2},
        {
            "embeddings": HOST_MATRIX,
            "num_clusters": [*POSITIVE, N + 1],
            "n_init": POSITIVE,
            "seed": ["x", -1, 0.5],
        },
    ),
    evaluate.label_seeded_clusters: (
        {"embeddings": X, "labels": Y, "seeds": [0]},
        {"embeddings": HOST_MATRIX, "labels": CLUSTERS, "clusters_per_class": POSITIVE},
    ),
    evaluate.evaluate: (
        {"embeddings": X, "labels": Y, "kmeans_seeds": 1},
        {
            **SCORED,
            **PROTOCOL,
            "clusters_per_class": POSITIVE,
            "kmeans_seeds": POSITIVE,
            "ks": [(), (0,), ("x",), (1.5,), 3],
        },
    ),
    evaluate.validate: (
        {"embeddings": X, "labels": Y},
        {"embeddings": HOST_MATRIX, "labels": CLUSTERS, "clusters_per_class": POSITIVE},
    ),
    sampling.class_table: (
        {"labels": Y, "classes": np.arange(3)},
        {
            "labels": [*TEXT, Y[:, None], Y.astype(float)],
            "classes": [*TEXT, [[1]], [], [7], [0.5]],
            "categories": [TEXT[0], TEXT[2], [0], [0.5] * 3],
        },
    ),
    sampling.sample: (
        {"seed": 0, "step": 0, "table": TABLE, "classes_per_batch": 2, "images_per_class": 2},
        {
            "classes_per_batch": [*POSITIVE, 4],
            "images_per_class": POSITIVE,
            "classes_per_category": POSITIVE,
            "seed": ["x", None, 0.5],
        },
    ),
    splits.without_test: (
        {"name": "poster", "num_classes": 10},
        {"name": ["nonsense", None, 3], "num_classes": POSITIVE},
    ),
    splits.ranges: (
        {"train": 10, "val": 0, "test": 5},
        {"train": ["x", None, -1, 1.5, 4, 0], "val": ["x", None, -1, 1.5], "test": ["x", None, -1, 1.5]},
    ),
    splits.split: (
        {"name": "poster", "num_classes": 10},
        {"name": ["nonsense", None, 3, "", "0-1/1-2/3-4", "0-5/6-7/8-99", "source"], "num_classes": POSITIVE},
    ),
    augment.augment: (
        {
            "images": IMAGES,
            "keys": KEYS,
            "size": 4,
            "crop_area": (0.5, 1.0),
            "flip": True,
            "jitter": 0.1,
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
        },
        {
            "images": IMAGE,
            "keys": [None, KEYS[:1], np.zeros(2)],
            "size": POSITIVE,
            "jitter": [-1, "x", float("nan")],
            "crop_area": [(0.0, 1.0), (1.0, 0.5), (0.5,), "x", None, (0.1, float("nan"))],
            "mean": [None, (0.5,) * 2, "x"],
            "std": [None, (0.5,) * 2, (0.0,) * 3],
        },
    ),
    augment.center: (
        {"images": IMAGES, "size": 4, "mean": (0.5,) * 3, "std": (0.5,) * 3},
        {
            "images": IMAGE,
            "size": POSITIVE,
            "mean": [None, (0.5,) * 2],
            "std": [None, (0.5,) * 2, (0.0,) * 3],
        },
    ),
    losses.triplet_distances: ({"d_ap": X[0], "d_an": X[0]}, {"formula": CHOICE, "margin": NUMBER}),
    losses.memory: ({"size": 4, "width": D}, {"size": POSITIVE, "width": POSITIVE}),
    losses.push: (
        {"state": losses.memory(4, D), "embeddings": X, "labels": Y},
        {"embeddings": [*MATRIX, X[:, :3]], "labels": [*LABELS, *TOO_LARGE]},
    ),
    losses.cross_batch: (
        {"loss": losses.triplet, "embeddings": X, "labels": Y, "state": losses.memory(4, D)},
        {"weight": [*NUMBER, -1.0]},
    ),
}
for metric in (*metrics.CLUSTERING.values(), *metrics.ORIGINAL.values(), metrics.majority_class):
    CASES[metric] = ({"clusters": Y, "labels": Y}, {"clusters": CLUSTERS, "labels": CLUSTERS})
for name, loss in losses.LOSSES.items():
    sound = {"embeddings": jnp.asarray(X), "labels": jnp.asarray(Y)}
    wrong = {"embeddings": MATRIX, "labels": LABELS}
    if name in losses.PARAMETERS:
        parameter = list(inspect.signature(loss).parameters)[2]
        sound[parameter] = losses.PARAMETERS[name](jax.random.key(0), 3, D)
        wrong[parameter] = [*TEXT, X[:, :3], np.zeros((0, D), np.float32)]
    if "references" in inspect.signature(loss).parameters:
        sound |= {"references": X, "reference_labels": Y, "reference_mask": Y > 0}
        wrong |= {"references": MATRIX, "reference_labels": LABELS}
        wrong["reference_mask"] = [
            "text",
            Y,
            Y[:-1] > 0,
            Y[:, None] > 0,
            [True] * (N + 1),
            [[True], [True, False]],
        ]
    for option, spec in inspect.signature(loss).parameters.items():
        if isinstance(spec.default, float):
            wrong[option] = NUMBER
        elif isinstance(spec.default, str):
            wrong[option] = CHOICE
    wrong["block_size"] = [0, -1, "x", 1.5]
    CASES[loss] = (sound, wrong)

# Parts of the functions above, which check their arguments, and functions that have tests of their own.
INNER = {
    metrics.recall, metrics.precision, metrics.r_precision, metrics.map_at_r, distances.dot, distances.largest,
}  # fmt: skip


def bad_calls():
    for function, (sound, wrong) in CASES.items():
        for argument, values in wrong.items():
            for i, value in enumerate(values):
                yield pytest.param(function, sound, argument, value, id=f"{function.__name__}-{argument}-{i}")


@pytest.mark.parametrize(("function", "sound", "argument", "value"), list(bad_calls()))
def test_one_error_names_the_argument(function, sound, argument, value):
    def call():
        result = function(**{**sound, argument: value})
        return list(result) if inspect.isgenerator(result) else result

    with pytest.raises(ValueError) as caught:
        call()
    name = "split" if function.__module__ == splits.__name__ and argument == "name" else argument
    assert name in str(caught.value), caught.value
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_the_sound_arguments_are_sound(function):
    result = function(**CASES[function][0])
    assert (list(result) if inspect.isgenerator(result) else result) is not None


def bad_options():
    """For every option of a configuration, values of other types and beyond its limits."""
    limited = {"data.crop_area": ((0.0, 1.0), (0.9, 0.1), (0.5,), (0.5, 1.5), (0.1, float("nan")))}
    for name, schema in config.options().items():
        kind = schema["type"]
        values = [None, {}, b"x", 1j, *limited.get(name, ())]
        # Other texts are names that are looked up later.
        if kind != "string" or "enum" in schema:
            values.append("nonsense")
        if kind in ("integer", "number"):
            values += [-1, float("nan"), float("inf"), True, "3"]
        if kind == "integer":
            values += [0.5, 3.0]
        if kind == "number":
            values += [1e39, -1e39]
        for limit, step in (
            ("minimum", -1),
            ("maximum", 1),
            ("exclusiveMinimum", 0),
            ("exclusiveMaximum", 0),
        ):
            if abs(schema.get(limit, FLOAT32)) < FLOAT32:
                values.append(schema[limit] + step)
        for value in values:
            yield pytest.param(name, value, id=f"{name}-{value}")


@pytest.mark.parametrize(("name", "value"), list(bad_options()))
def test_every_option_refuses_what_it_can_not_be(name, value):
    section, option = name.split(".")
    part = dataclasses.replace(getattr(Config(), section), **{option: value})
    for make in (
        lambda: dataclasses.replace(Config(), **{section: part}),
        lambda: config.from_dict({section: {option: value}}),
        lambda: config.override(Config(), {name: value}),
    ):
        with pytest.raises(ValueError, match=f"^--{section}.{option} (is|has) .*; it must be ") as caught:
            make()
        assert len(str(caught.value).splitlines()) == 1


def test_every_number_has_limits():
    """Whole numbers those of an int32 at least, and real ones those of a float32."""
    for name, schema in config.options().items():
        if schema["type"] in ("integer", "number"):
            assert {"minimum", "exclusiveMinimum"} & set(schema), name
            assert {"maximum", "exclusiveMaximum"} & set(schema), name


@pytest.mark.parametrize("groups", [(("(", 0.1),), (("a", -1.0),), (("a", "b"),), ("a",), (("a",),)])
def test_groups_are_expressions_with_factors(groups):
    with pytest.raises(ValueError, match=r"^--optim\.groups (is|has) "):
        Config(optim=config.Optim(groups=groups))


@pytest.mark.parametrize("values", [None, [], {"train": 3}, {"train": {"stepz": 1}}, {"trian": {}}])
def test_tables_that_are_no_configuration(values):
    with pytest.raises(ValueError, match=r"configuration"):
        config.from_dict(values)


def public(module: ModuleType):
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if not name.startswith("_") and function.__module__ == module.__name__:
            yield function


@pytest.mark.parametrize("module", [distances, metrics, neighbours, evaluate, sampling, splits, augment])
def test_no_public_function_is_left_out(module):
    assert [f.__name__ for f in public(module) if f not in CASES and f not in INNER] == []
