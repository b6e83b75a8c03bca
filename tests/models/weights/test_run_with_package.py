"""A run with `--model.weights auto`: it records the package, and goes on and is scored without it."""

import json

import numpy as np
from PIL import Image

from jaxml.config import Config, Data, Eval, Model, Train
from jaxml.training import train
from tests.models.weights import torchvision_weights


def test_a_run_needs_the_package_once(installed, uninstall, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for c in range(4):
        (tmp_path / f"pictures/class{c}").mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"pictures/class{c}/{i}.png")
    config = Config(
        data=Data(
            source="folder",
            root=str(tmp_path / "pictures"),
            split="0-1/2-2/3-3",
            train_on="train+val",
            stored_size=32,
            size=32,
            classes_per_batch=2,
            images_per_class=2,
            cache=str(tmp_path / "cache"),
        ),
        model=Model(backbone="squeezenet1_1", weights="auto", feature_size=8),
        train=Train(steps=1, devices=1),
        eval=Eval(batch_size=4, kmeans_seeds=1),
    )
    train.learn(config, tmp_path / "run")
    assert "weights: auto: made-up-model 1.2, Apache-2.0\n" in capsys.readouterr().out
    report = json.loads((tmp_path / "run/weights.json").read_text())
    assert report["sha256"] == installed[1].sha256
    assert report["metadata"]["package"] == "made-up-model"
    numbers = {
        name: array.size
        for name, array in torchvision_weights.weights("squeezenet1_1").items()
        if not name.startswith("classifier.")
    }
    assert report["loaded"] == sum(numbers.values())
    uninstall()
    results = train.train(config, tmp_path / "run", resume=True)
    assert "frozen features" in results["baselines"]
