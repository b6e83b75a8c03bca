"""One training for several sizes of the embedding: nested sizes in the step, and runs scored by a part of it."""

from dataclasses import replace

import numpy as np
import pytest

import jaxml
from jaxml import config as configs
from jaxml.commands import evaluate
from jaxml.config import Config, Loss
from jaxml.training import run, train
from jaxml.training.learner import create, loss_function
from tests.training.test_run import config, pictures  # noqa: F401
from tests.training.test_step import CONFIG, difference, moments, run_steps

NESTED = replace(
    CONFIG,
    loss=Loss("proxy_anchor", nested_sizes=(2, 4)),
    model=replace(CONFIG.model, batch_norm="frozen"),
)


def test_every_size_has_its_own_proxies():
    _, state = create(NESTED, 10)
    assert [p.shape for p in state.params["loss"]] == [(10, 2), (10, 4), (10, 8)]
    _, plain = create(replace(NESTED, loss=Loss("proxy_anchor")), 10)
    assert plain.params["loss"].shape == (10, 8), (
        "and without sizes an array, as checkpoints of before have it"
    )


@pytest.mark.slow  # in make test, tests/losses/test_nested.py has it of the loss
@pytest.mark.parametrize(("devices", "chunk"), [(2, 0), (1, 4)])
def test_devices_and_chunks_agree(devices, chunk):
    want = run_steps(NESTED, devices=1, steps=1)
    found = run_steps(replace(NESTED, train=replace(NESTED.train, chunk=chunk)), devices, steps=1)
    np.testing.assert_allclose(found.metrics["loss"], want.metrics["loss"], rtol=1e-5)
    assert difference(moments(want.last), moments(found.last)) < 1e-5
    plain = run_steps(replace(NESTED, loss=Loss("proxy_anchor")), devices=1, steps=1)
    assert abs(plain.metrics["loss"] - want.metrics["loss"]) > 1e-2


def test_options_of_the_loss_are_checked_as_without_sizes():
    loss_function(replace(CONFIG, loss=Loss("triplet", (("margin", 0.3),), nested_sizes=(4,))))
    with pytest.raises(ValueError, match=r"no margins; it takes .*margin"):
        loss_function(replace(CONFIG, loss=Loss("triplet", (("margins", 0.3),), nested_sizes=(4,))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss.nested_sizes": (8, 4)},
            "^--loss.nested_sizes is 8 4; it must be in ascending order, each size once$",
        ),
        ({"loss.nested_sizes": (4, 4)}, "^--loss.nested_sizes is 4 4; it must be in ascending order"),
        ({"loss.nested_sizes": (0, 4)}, "^--loss.nested_sizes has 0; it must be at least 1$"),
        (
            {"loss.nested_sizes": (4, 64)},
            "^--loss.nested_sizes has 64; it must be less than --model.feature_size, wh",
        ),
        (
            {"eval.feature_size": 65},
            "^--eval.feature_size is 65; it must be at most --model.feature_size, which is 64$",
        ),
    ],
)
def test_sizes_that_the_embedding_does_not_have(changes, message):
    with pytest.raises(ValueError, match=message):
        configs.override(Config(), changes)


def test_a_run_is_scored_by_the_first_dimensions(config, tmp_path, capsys):  # noqa: F811
    sized = {
        "loss.name": "proxy_anchor",
        "loss.nested_sizes": (2, 4),
        "eval.feature_size": 4,
        "train.steps": 6,
    }
    config = configs.override(config, sized)
    train.train(config, tmp_path / "run")
    # Another size on resuming is no other run.
    results = train.train(configs.override(config, {"eval.feature_size": 2}), tmp_path / "run", resume=True)
    opened = run.load(tmp_path / "run", feature_size=8)
    rows = opened.images.rows("test")
    whole = opened.embed(rows)
    assert whole.shape == (24, 8)
    for size in (2, 4):
        part = run.load(tmp_path / "run", feature_size=size).embed(rows)
        want = whole[:, :size] / np.linalg.norm(whole[:, :size], axis=1, keepdims=True)
        np.testing.assert_allclose(part, want, atol=1e-6)
    np.testing.assert_allclose(
        run.load(tmp_path / "run").embed(rows), run.load(tmp_path / "run", feature_size=2).embed(rows)
    )
    assert jaxml.load(tmp_path / "run").embed(next(opened.images.read([np.arange(3)]))).shape == (3, 2)

    capsys.readouterr()
    for words, dimensions in (([], 2), (["--feature_size", "4"], 4), (["--eval.feature_size", "8"], 8)):
        evaluate.main(["--workdir", str(tmp_path / "run"), *words])
        text = capsys.readouterr().out
        assert f"24 images of 3 test classes, by {dimensions} of 8 dimensions:" in text
        if dimensions == 2:
            assert f"{results['test']['nmi']:.4f}" in text
    with pytest.raises(
        ValueError, match=r"^--eval\.feature_size is 9; it must be at most --model\.feature_size"
    ):
        evaluate.main(["--workdir", str(tmp_path / "run"), "--feature_size", "9"])
