"""Triplets at the input: each strategy against its definition, the loss against loops, and runs that resume."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxml import config as configs
from jaxml import losses
from jaxml.config import Config, Loss, Train, Triplets
from jaxml.errors import CheckpointError
from jaxml.training import input_triplets as triplets
from jaxml.training import run, train
from jaxml.training.devices import parallel
from tests.training.test_run import Stop, StopAt, assert_same_run, config, pictures  # noqa: F401

SAMPLING = ("random", "hardest", "semi_hard", "original_semi_hard", "kmeans")
rng = np.random.default_rng(0)
LABELS = rng.permutation(np.repeat([3, 5, 8, 9, 20], [1, 2, 20, 30, 40]))
CENTRES = rng.normal(size=(21, 6))
EMBEDDINGS = (CENTRES[LABELS] + rng.normal(0, 1.2, (len(LABELS), 6))).astype(np.float32)


def draw(sampling, count=200, embeddings=EMBEDDINGS, **options):
    options = {"hard_share": 1.0, "margin": 1.0, "seed": 1, "step": 100, **options}
    return triplets.draw(LABELS, count, embeddings, sampling=sampling, **options)


def distances(found):
    a, p, n = EMBEDDINGS[found].astype(np.float64).transpose(1, 0, 2)
    return np.sqrt(((a - p) ** 2).sum(1)), np.sqrt(((a - n) ** 2).sum(1))


@pytest.mark.parametrize("sampling", SAMPLING)
def test_triplets_are_triplets(sampling):
    found = draw(sampling, hard_share=0.6)
    a, p, n = found.T
    assert found.shape == (200, 3)
    assert found.dtype == np.int32
    assert (LABELS[a] == LABELS[p]).all()
    assert (a != p).all()
    assert (LABELS[a] != LABELS[n]).all()
    np.testing.assert_array_equal(found, draw(sampling, hard_share=0.6))
    assert not np.array_equal(found, draw(sampling, hard_share=0.6, seed=2))
    assert not np.array_equal(found, draw(sampling, hard_share=0.6, step=200))


def test_random_ones_reach_every_image_and_pair():
    found = draw("random", 100_000)
    a, p, n = found.T
    alone = np.flatnonzero(LABELS == 3)
    assert set(a) == set(p) == set(range(len(LABELS))) - set(alone)
    assert set(n) == set(range(len(LABELS)))
    pairs = (LABELS[:, None] == LABELS[None, :]).sum() - len(LABELS)
    assert len(np.unique(found[:, :2], axis=0)) == pairs
    # Each image of another class is as likely: class 9 against class 8, for anchors of class 20.
    of_20 = LABELS[n[LABELS[a] == 20]]
    assert (of_20 == 9).sum() / (of_20 == 8).sum() == pytest.approx(30 / 20, rel=0.05)


def test_hardest_have_nearer_negatives_than_nearly_all():
    _, d_an = distances(draw("hardest"))
    _, usual = distances(draw("random", 20_000))
    # 200 of 4,000 candidates are the nearest twentieth.
    assert d_an.max() == pytest.approx(np.quantile(usual, 0.05), rel=0.1)


def test_semi_hard_ones():
    d_ap, d_an = distances(draw("semi_hard"))
    assert ((d_ap < d_an) & (d_an < d_ap + 1.0)).all()
    d_ap, d_an = distances(draw("original_semi_hard"))
    assert (d_an < d_ap).all()
    d_ap, d_an = distances(draw("random"))
    assert 0.02 < np.mean((d_ap < d_an) & (d_an < d_ap + 1.0)) < 0.9
    assert 0.02 < np.mean(d_an < d_ap) < 0.9


def test_kmeans_negatives_lie_in_a_cluster_of_the_anchors_class():
    clusters = triplets.cluster(EMBEDDINGS, 5, seed=1, n_init=3)
    majority = {
        c: min(sorted(set(LABELS)), key=lambda y: (-np.sum((clusters == c) & (y == LABELS)), y))
        for c in set(clusters)
    }
    named = np.array([majority[c] for c in clusters])
    wrong = named != LABELS
    assert 0 < wrong.sum() < len(LABELS)
    a, _, n = draw("kmeans").T
    assert (named[a] == LABELS[a]).all()
    assert wrong[n].all()
    assert (named[n] == LABELS[a]).all()
    assert len(set(n)) > wrong.sum() / 2


def test_share_of_hard_ones_and_what_is_random_without_embeddings():
    d_ap, d_an = distances(draw("original_semi_hard", 2000, hard_share=0.6))
    base = np.mean(np.less(*distances(draw("random", 20_000))[::-1]))
    assert np.mean(d_an < d_ap) == pytest.approx(0.6 + 0.4 * base, abs=0.03)
    np.testing.assert_array_equal(draw("hardest", embeddings=None), draw("random"))


def test_too_few_hard_ones_are_filled_up():
    apart = 100 * np.eye(21, dtype=np.float32)[LABELS]
    assert draw("original_semi_hard", embeddings=apart).shape == (200, 3)
    assert draw("kmeans", embeddings=apart).shape == (200, 3)


def test_classes_that_give_no_triplets():
    for labels in (np.zeros(5, int), np.arange(5)):
        with pytest.raises(ValueError, match="two classes to train on, one of them with two images"):
            triplets.draw(labels, 4, None, sampling="random", hard_share=0.6, margin=0.2, seed=0, step=0)


@pytest.mark.parametrize("formula", ["hinge", "squared_hinge", "soft", "ratio", "ratio_original"])
@pytest.mark.parametrize("swap", [False, True])
def test_loss_and_gradient_against_loops_on_one_and_four_devices(formula, swap):
    x = rng.normal(size=(24, 5)).astype(np.float32)
    labels = np.zeros(24, np.int32)

    def value(x):
        total, active = 0.0, 0
        for i in range(0, 24, 3):
            a, p, n = x[i : i + 3]
            ap, an, pn = (np.sqrt(((u - v) ** 2).sum()) for u, v in ((a, p), (a, n), (p, n)))
            if swap:
                an, pn = min(an, pn), max(an, pn)
            s = 1 / (1 + np.exp(an - ap))
            of = {
                "hinge": max(0.0, ap - an + 0.2),
                "squared_hinge": max(0.0, ap**2 - an**2 + 0.2),
                "soft": ap + np.log(np.exp(0.2 - an) + np.exp(0.2 - pn)),
                "ratio": 2 * s * s,
                "ratio_original": 2 * s,
            }[formula]
            total += of
            active += of > 0 or "hinge" not in formula
        return total / active, active

    expected, active = value(x.astype(np.float64))
    if "hinge" in formula:
        assert 0 < active < 8
    slope = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[place] = 1e-6
        slope[place] = (value(x + step)[0] - value(x - step)[0]) / 2e-6

    def loss(x, labels, axis_name=None):
        return losses.input_triplets(x, labels, formula=formula, swap=swap, axis_name=axis_name)

    (found, aux), grads = jax.value_and_grad(loss, has_aux=True)(x, labels)
    assert found == pytest.approx(expected, rel=1e-5)
    assert (aux["active"], aux["valid"]) == (active, 8)
    np.testing.assert_allclose(grads, slope, atol=1e-5)

    def own(x, labels):
        (value, aux), grads = jax.value_and_grad(lambda x: loss(x, labels, "batch"), has_aux=True)(x)
        return value[None], aux["active"][None], grads / 4  # the mean over devices divides by their number

    # One device holds two triplets, so that devices differ in how many are active.
    call = parallel(own, in_axes=(0, 0), out_axes=0, devices=jax.devices()[:4])
    found, count, grads = call(x.reshape(4, 6, 5), labels.reshape(4, 6))
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)
    assert (np.asarray(count) == active).all()
    np.testing.assert_allclose(np.asarray(grads).reshape(24, 5), slope, atol=1e-5)


def test_triplets_that_coincide_have_finite_gradients():
    grads = jax.grad(lambda x: losses.input_triplets(x, np.zeros(6, np.int32))[0])(
        np.ones((6, 4), np.float32)
    )
    assert np.isfinite(grads).all()


def test_rows_that_are_no_triplets():
    with pytest.raises(ValueError, match="8 rows on each device, which are no triplets"):
        losses.input_triplets(np.ones((8, 2), np.float32), np.zeros(8, np.int32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": Loss("contrastive")}, "needs --loss.name triplet"),
        (
            {"train": Train(mode="input_triplets", steps_per_call=2)},
            "steps_per_call needs --train.mode batch",
        ),
        ({"data": configs.Data(classes_per_batch=4, images_per_class=4)}, "must be a multiple of 3"),
        ({"triplets": Triplets(hard_share=1.5)}, "hard_share is 1.5"),
    ],
)
def test_configurations_refused(change, message):
    data = configs.Data(classes_per_batch=3)
    with pytest.raises(ValueError, match=message):
        Config(**{"data": data, "train": Train(mode="input_triplets"), **change})


@pytest.fixture
def triplet_config(config):  # noqa: F811
    return replace(
        config,
        data=replace(config.data, classes_per_batch=3, images_per_class=4),
        train=replace(config.train, mode="input_triplets", devices=2),
        triplets=Triplets(sampling="hardest", regenerate_every=4),
        eval=replace(config.eval, kmeans_seeds=1),
    )


@pytest.mark.parametrize("source", ["resident", pytest.param("tf_data", marks=pytest.mark.slow)])
def test_stopped_anywhere_and_resumed_is_the_same_run(triplet_config, tmp_path, source):
    """Saved at 3, 6, 9, 12; new lists at 4 and 8: resumes lie between two lists."""
    settings = replace(triplet_config, data=replace(triplet_config.data, input=source))
    train.train(settings, tmp_path / "whole")
    for attempt, stop in enumerate([7, 11]):
        with pytest.raises(Stop):
            train.train(settings, tmp_path / "stopped", resume=attempt > 0, callbacks=[StopAt(stop)])
    train.train(settings, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    lists = [triplets._load(tmp_path / "whole" / "triplets" / f"{step}.npz", 16, 80) for step in (0, 4, 8)]
    assert [len(found) for found in lists] == [16, 16, 16]
    assert not np.array_equal(lists[1], lists[2])
    trained_on = run.load(tmp_path / "whole").images.rows("train")
    assert np.isin(np.concatenate(lists), trained_on).all(), "an image of a class that is not trained on"


def test_a_damaged_list_is_refused(tmp_path):
    path = tmp_path / "triplets" / "4.npz"
    found = draw("random")
    triplets._save(path, found)
    np.testing.assert_array_equal(triplets._load(path, len(found), len(LABELS)), found)
    refused = pytest.raises(CheckpointError, match=r"4\.npz is missing or damaged")
    for count, images in ((len(found) - 1, len(LABELS)), (len(found), found.max())):
        with refused:
            triplets._load(path, count, images)
    raw, outcomes = path.read_bytes(), []
    for i in range(0, len(raw), 3):  # a flipped bit in the data or anywhere in the archive's tables
        changed = bytearray(raw)
        changed[i] ^= 1 << i % 8
        path.write_bytes(changed)
        try:
            np.testing.assert_array_equal(triplets._load(path, len(found), len(LABELS)), found)
        except CheckpointError:
            outcomes.append("refused")
        else:
            outcomes.append("unchanged")
    assert outcomes.count("refused") > 1000
    path.unlink()
    with refused:
        triplets._load(path, len(found), len(LABELS))
