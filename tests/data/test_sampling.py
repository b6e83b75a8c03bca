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


# Categories 0 to 4, with 5, 3, 1, 1 and 2 classes; each class has four images.
CATEGORIES = np.array([1, 0, 3, 0, 1, 0, 4, 2, 0, 1, 0, 4])
GROUPED = class_table(np.repeat(np.arange(12), 4).astype(np.int32), np.arange(12), CATEGORIES)
DRAW_GROUPED = jax.jit(sample, static_argnums=(3, 4, 5))


def drawn_by_category(p, m, steps, seed=0):
    """Classes int [steps, P], in the order in which they were drawn."""
    draws = [DRAW_GROUPED(seed, step, GROUPED, p, 2, m) for step in range(steps)]
    for images, classes in draws:
        assert np.array_equal(np.asarray(images) // 4, classes)
    return np.array([classes[::2] for _, classes in draws])


@pytest.mark.parametrize(("p", "m"), [(6, 2), (6, 3), (5, 1), (4, 6)])
def test_categories_give_their_classes_side_by_side(p, m):
    """By a loop: each category in turn gives m classes, or all it has, until there are P."""
    for classes in drawn_by_category(p, m, 50):
        assert len(set(classes)) == p
        found = CATEGORIES[classes].tolist()
        order = list(dict.fromkeys(found))
        wanted = [c for c in order for _ in range(min(m, CATEGORIES.tolist().count(c)))][:p]
        assert found == wanted


def test_categories_and_their_classes_come_evenly():
    steps = 600
    classes = drawn_by_category(2, 2, steps)
    first = np.bincount(CATEGORIES[classes[:, 0]], minlength=5)
    assert np.all(np.abs(first - steps / 5) < 5 * np.sqrt(steps / 5))
    for category in range(5):
        members = np.flatnonzero(category == CATEGORIES)
        counts = np.bincount(classes[CATEGORIES[classes] == category], minlength=12)[members]
        assert np.all(np.abs(counts - counts.mean()) < 5 * np.sqrt(counts.mean()))


def test_categories_that_run_out_give_as_many_once_more():
    for classes in drawn_by_category(12, 2, 20):
        assert sorted(classes) == list(range(12))
        found = CATEGORIES[classes]
        # Two of 5, two of 3, one, one and two: eight in the first turn.
        assert np.bincount(found[:8]).tolist() == [2, 2, 1, 1, 2]
        assert np.bincount(found[8:11], minlength=5).tolist() in ([2, 1, 0, 0, 0],)


def test_categories_are_drawn_the_same_under_jit_and_tomorrow():
    with jax.disable_jit():
        eager = sample(3, 7, GROUPED, 6, 2, 3)[1]
    assert np.array_equal(eager[::2], drawn_by_category(6, 3, 8, seed=3)[7])
    assert drawn_by_category(6, 2, 2).tolist() == [[5, 8, 6, 11, 9, 0], [2, 11, 6, 4, 0, 1]]


def test_without_categories_the_draw_is_as_before():
    assert np.array_equal(sample(3, 7, TABLE, 3, 5, 4)[0], sample(3, 7, TABLE, 3, 5)[0])
