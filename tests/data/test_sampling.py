"""P x K batches: a pure function of seed and step, balanced, and the same under jit and scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.data.sampling import class_table, sample

SIZES = [3, 9, 5, 12, 4, 8, 6]  # classes 0 .. 6; with K = 5 two of them are too small
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(7), SIZES)).astype(np.int32)
CLASSES = np.array([6, 0, 3, 2, 4])
TABLE = class_table(LABELS, CLASSES)
DRAW = jax.jit(sample, static_argnums=(3, 4))
STEPS = 400


@pytest.fixture(scope="module")
def draws():
    drawn = [DRAW(3, step, TABLE, 3, 5) for step in range(STEPS)]
    return np.array([d[0] for d in drawn]), np.array([d[1] for d in drawn])


def test_batches_hold_p_classes_and_k_images_of_each(draws):
    indices, positions = draws
    assert indices.dtype == positions.dtype == np.int32
    for i, c in zip(indices, positions, strict=True):
        assert np.array_equal(LABELS[i], CLASSES[c])
        assert len(set(c[::5])) == 3
        assert np.array_equal(c, np.repeat(c[::5], 5))


def test_only_classes_smaller_than_k_repeat_images(draws):
    repeats = dict.fromkeys(CLASSES.tolist(), 0)
    for i in draws[0].reshape(-1, 5):
        repeats[int(LABELS[i[0]])] += len(set(i.tolist())) < 5
    for label, count in repeats.items():
        assert (count > 0) == (SIZES[label] < 5), label


def test_classes_and_images_are_drawn_evenly(draws):
    indices, positions = draws
    per_class = np.bincount(positions[:, ::5].reshape(-1), minlength=5)
    expected = STEPS * 3 / 5
    assert np.all(np.abs(per_class - expected) < 5 * np.sqrt(expected))
    for c, label in enumerate(CLASSES):
        images = np.flatnonzero(label == LABELS)
        counts = np.bincount(indices[positions == c], minlength=len(LABELS))
        assert counts.sum() == counts[images].sum()
        mean = counts.sum() / len(images)
        assert np.all(np.abs(counts[images] - mean) < 5 * np.sqrt(mean))


def test_steps_and_seeds_give_different_batches(draws):
    assert len({tuple(i) for i in draws[0]}) == STEPS
    assert not np.array_equal(DRAW(4, 0, TABLE, 3, 5)[0], draws[0][0])


def test_the_same_bits_eagerly_under_jit_and_in_a_scan(draws):
    _, scanned = jax.lax.scan(lambda carry, step: (carry, sample(3, step, TABLE, 3, 5)), 0, jnp.arange(8))
    assert np.array_equal(scanned[0], draws[0][:8])
    assert np.array_equal(scanned[1], draws[1][:8])
    with jax.disable_jit():
        assert np.array_equal(sample(3, 7, TABLE, 3, 5)[0], draws[0][7])


def test_draws_of_today_are_those_of_tomorrow():
    """If draws changed, a resumed run would not see the batches of an uninterrupted one."""
    table = class_table(np.repeat(np.arange(4), 6).astype(np.int32), np.arange(4))
    assert DRAW(0, 1, table, 2, 3)[0].tolist() == [12, 15, 17, 9, 8, 6]


@pytest.mark.parametrize(
    ("p", "k", "said"), [(6, 2, "at most the 5 classes"), (0, 2, "at least 1"), (2, 0, "at least 1")]
)
def test_impossible_batches_are_refused(p, k, said):
    with pytest.raises(ValueError, match=said):
        sample(0, 0, TABLE, p, k)


def test_classes_without_images_are_refused():
    with pytest.raises(ValueError, match=r"classes \[7\] have no images"):
        class_table(LABELS, np.array([1, 7]))
