"""Non-finite values, collapsed embeddings and exhausted memory: what is named, reported, or passed over."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.config import Config, Loss
from jaxml.errors import RunError
from jaxml.training import health, train
from jaxml.training import step as training
from tests.training.test_run import config, pictures  # noqa: F401


def test_step_and_tensors_that_are_not_finite_are_named():
    row = {"loss": 1.0, "grad_norm": float("nan")}
    squares = np.array([1.0, np.nan, np.inf, 2.0])
    with pytest.raises(RunError, match=r"^grad_norm \(gradient of b, c\) not finite at step 7; "):
        health.check_finite(row, squares, ["a", "b", "c", "d"], 7)
    with pytest.raises(RunError, match=r"gradient of 0, 1, 2 and 3 more\) not finite at step 1"):
        health.check_finite({"loss": np.inf}, np.full(6, np.inf), list("012345"), 1)
    health.check_finite({"loss": 1.0}, np.ones(2), ["a", "b"], 1)


@pytest.mark.parametrize("number", [np.nan, 1e20])
def test_embeddings_that_are_not_finite_stop_training_at_that_step(config, tmp_path, monkeypatch, number):  # noqa: F811
    """The loss itself is NaN, although comparisons with NaN would leave it out of every triplet."""
    objective = training.objective

    def spoiled(learner, loss_params, outputs, *rest):
        return objective(learner, loss_params, outputs.at[1, 2].set(number), *rest)

    monkeypatch.setattr(training, "objective", spoiled)
    settings = replace(config, model=replace(config.model, normalize=False))
    with pytest.raises(RunError, match=r"^grad_norm and loss .* not finite at step 1; "):
        train.train(settings, tmp_path / "run")


def collapse_warning(settings):
    """What the callback does at a step, in a run of this configuration."""
    run, callback = SimpleNamespace(config=settings), health.CollapseWarning()
    callback.on_begin(run)
    return partial(callback.on_step, run)


@pytest.mark.parametrize(
    ("loss", "share", "warns"),
    [(0.2, 1.0, 1), (0.5, 1.0, 0), (0.2, 0.9, 0), (0.2001, 1.0, 1)],
)
def test_collapse_is_reported_once(caplog, loss, share, warns):
    on_step = collapse_warning(Config())
    for step in range(3 * health.PATIENCE):
        on_step(step, {"loss": loss, "active_share": share})
    assert caplog.text.count("collapse:") == warns


def test_a_short_plateau_is_no_collapse(caplog):
    on_step = collapse_warning(Config(loss=Loss("triplet", (("margin", 0.5),))))
    for step in range(200):
        on_step(step, {"loss": 0.5, "active_share": 1.0 if step % 19 else 0.99})
    on_step = collapse_warning(Config(loss=Loss("triplet", (("formula", "soft"),))))
    for step in range(200):
        on_step(step, {"loss": 0.2, "active_share": 1.0})
    assert not caplog.text


def test_embeddings_in_one_point(caplog):
    rng = np.random.default_rng(0)
    point = rng.normal(size=(1, 8)) + np.zeros((50, 1))
    assert health.warn_collapsed(point + 1e-5 * rng.normal(size=(50, 8)), "test images")
    assert "all 50 test images are equal" in caplog.text
    assert health.warn_collapsed(np.zeros((5, 3)), "test images")
    assert not health.warn_collapsed(point + 0.1 * rng.normal(size=(50, 8)), "test images")


def test_running_out_of_memory_says_what_helps():
    with (
        pytest.raises(
            RunError, match=r"32 images per device at 64 x 64 pixels.*chunk 8.*remat.*bfloat16.*tf_data"
        ),
        health.explain_memory(Config(), 2),
    ):
        jax.block_until_ready(jnp.zeros((2**50,), jnp.float32) + 1)  # 4 PiB
    with pytest.raises(jax.errors.JaxRuntimeError, match="another"), health.explain_memory(Config(), 2):
        raise jax.errors.JaxRuntimeError("INTERNAL: another error")
