"""Cross-batch memory: what is stored, what counts, and the same on several devices."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses
from tests.spread import spread

pytestmark = pytest.mark.usefixtures("hardly_optimized")

B, D = 6, 3
TAKE_REFERENCES = [n for n, f in losses.LOSSES.items() if "references" in inspect.signature(f).parameters]


def batches(n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (jnp.asarray(rng.normal(size=(B, D)), jnp.float32), jnp.asarray(rng.integers(0, 3, B), jnp.int32))
        for _ in range(n)
    ]


def against(state):
    return {
        "references": state.embeddings,
        "reference_labels": state.labels,
        "reference_mask": state.filled,
    }


def test_ring_keeps_the_newest():
    state, stored = losses.memory(10, D), []
    push = jax.jit(losses.push)
    for x, y in batches(5):
        state = push(state, x, y)
        stored += [(*row, label) for row, label in zip(x.tolist(), y.tolist(), strict=True)]
        held = [
            (*r, int(z))
            for r, z, there in zip(state.embeddings.tolist(), state.labels, state.filled, strict=True)
            if there
        ]
        assert sorted(held) == sorted(stored[-10:])


def test_batch_larger_than_memory():
    (x, y), *_ = batches(1)
    state = losses.push(losses.memory(4, D), x, y)
    assert sorted(state.embeddings.tolist()) == sorted(x[-4:].tolist())


def test_only_what_a_mask_names_is_stored():
    """As if the others had not been there, with one compiled function for every mask."""
    rng, compiles = np.random.default_rng(5), 0

    @jax.jit
    def push(state, x, y, mask):
        nonlocal compiles
        compiles += 1
        return losses.push(state, x, y, mask=mask)

    state = want = losses.memory(4, D)
    for x, y in batches(6):
        mask = rng.random(B) < 0.5
        state = push(state, x, y, mask)
        for i in np.flatnonzero(mask):
            want = losses.push(want, x[i : i + 1], y[i : i + 1])
        for a, b in zip(state, want, strict=True):
            np.testing.assert_array_equal(a, b)
    assert compiles == 1
    assert losses.push(state, x, y, mask=np.zeros(B, bool)).next == state.next
    with pytest.raises(ValueError, match=r"^mask must be a boolean array \[6\], one entry for each of the"):
        losses.push(state, x, y, mask=np.ones(B))


def test_size_is_checked():
    with pytest.raises(ValueError, match=r"^size must be a whole number of at least 1"):
        losses.memory(0, D)
    (x, y), *_ = batches(1)
    with pytest.raises(ValueError, match="as wide as the memory"):
        losses.push(losses.memory(4, D + 1), x, y)


def test_labels_that_an_int32_can_not_hold_are_refused():
    (x, y), *_ = batches(1)
    y = np.asarray(y)
    small = [y.astype(dtype) for dtype in (np.uint8, np.int64, np.uint64)]
    for labels in [*small, jnp.asarray(y, jnp.uint32)]:
        assert losses.push(losses.memory(B, D), x, labels).labels.tolist() == y.tolist()
    extremes = np.array([-(2**31), 2**31 - 1] * 3, np.int64)
    assert losses.push(losses.memory(B, D), x, extremes).labels.tolist() == extremes.tolist()
    for labels in (
        y.astype(np.int64) * 2**32,
        y.astype(np.uint32) + 2**31,
        jnp.asarray(y.astype(np.uint32) + 2**31),
    ):
        with pytest.raises(ValueError, match=r"^labels must fit into the memory's int32, got u?int"):
            losses.push(losses.memory(B, D), x, labels)
    traced = jax.jit(lambda labels: losses.push(losses.memory(B, D), x, labels))
    assert traced(y.astype(np.uint16)).labels.tolist() == y.tolist()
    with pytest.raises(
        ValueError, match=r"^labels must fit .* got uint32 0\.\.4294967295; .*astype\('int32'\)"
    ):
        traced(y.astype(np.uint32))


@pytest.mark.parametrize("name", spread(TAKE_REFERENCES, of=2))
def test_empty_places_do_not_count(name):
    """A half-filled memory gives what its filled half gives; an empty one nothing."""
    (x, y), (rx, ry) = batches(2, seed=1)
    p = (losses.PARAMETERS[name](jax.random.key(0), 3, D),) if name in losses.PARAMETERS else ()
    loss = losses.LOSSES[name]
    state = losses.push(losses.memory(9, D), rx, ry)
    got = loss(x, y, *p, **against(state))
    want = loss(x, y, *p, references=rx, reference_labels=ry)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    for key in want[1]:
        assert float(got[1][key]) == float(want[1][key]), key
    assert float(want[1]["valid"]) > 0
    empty = losses.memory(9, D)
    value, aux = loss(x, y, *p, **against(empty))
    assert float(value) == float(aux["valid"]) == 0


def test_cross_batch_adds_the_two_losses():
    (x, y), (rx, ry) = batches(2, seed=2)
    state = losses.push(losses.memory(B, D), rx, ry)
    value, aux = losses.cross_batch(losses.triplet, x, y, state, weight=0.5, formula="soft")
    own, own_aux = losses.triplet(x, y, formula="soft")
    other, other_aux = losses.triplet(x, y, formula="soft", references=rx, reference_labels=ry)
    np.testing.assert_allclose(value, own + 0.5 * other, rtol=1e-6)
    assert aux["valid"] == own_aux["valid"]
    assert aux["memory_valid"] == other_aux["valid"]


def test_batch_and_memory_is_one_loss():
    """Of anchors against all that is stored, the batch included; over a ring that begins again."""
    state, stored = losses.memory(10, D), []
    for x, y in batches(4, seed=4):
        value, aux = losses.batch_and_memory(losses.contrastive, x, y, state, margin=2.0, power=1)
        stored = [*stored, *zip(np.asarray(x, np.float64), y.tolist(), range(B), strict=True)][-10:]
        positives, negatives = [], []
        for i, (u, label) in enumerate(zip(np.asarray(x, np.float64), y.tolist(), strict=True)):
            for place, (v, other, j) in enumerate(stored):
                if i == j and place >= len(stored) - B:
                    continue  # the image itself
                d = np.linalg.norm(u - v)
                (positives if label == other else negatives).append(d if label == other else max(0, 2 - d))
        np.testing.assert_allclose(value, np.mean(positives) + np.mean(negatives), rtol=1e-5)
        assert aux["valid"] == len(positives) + len(negatives)
        state = losses.push(state, x, y)


def cross_batch(*args, **options):
    return losses.cross_batch(*args, weight=0.7, **options)


@pytest.mark.parametrize(
    ("with_memory", "name"),
    [
        (cross_batch, "triplet"),
        (cross_batch, "lifted"),
        (cross_batch, "multi_similarity"),
        (losses.batch_and_memory, "triplet"),
    ],
)
def test_same_on_two_devices(with_memory, name):
    loss = losses.LOSSES[name]
    sequence = batches(3, seed=3)

    def run(state, w, x, y, axis_name=None):
        def total(w):
            return with_memory(loss, x @ w, y, state, axis_name=axis_name)

        (value, aux), gradient = jax.value_and_grad(total, has_aux=True)(w)
        if axis_name:
            gradient = jax.lax.pmean(gradient, axis_name)
        return losses.push(state, x @ w, y, axis_name=axis_name), value, aux, gradient

    mapped = jax.pmap(
        lambda s, w, x, y: run(s, w, x, y, "batch"),
        axis_name="batch",
        in_axes=(None, None, 0, 0),
        out_axes=None,
        devices=jax.devices()[:2],
    )
    one, two = losses.memory(10, D), losses.memory(10, D)
    w = jnp.eye(D)
    for x, y in sequence:
        one, *want = run(one, w, x, y)
        two, *got = mapped(two, w, x.reshape(2, B // 2, D), y.reshape(2, B // 2))
        for a, b in zip(jax.tree.leaves((got, two)), jax.tree.leaves((want, one)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
