"""weighted: every anchor's terms times the weight of its class, for every loss that there is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses
from tests import loops
from tests.losses.test_contract import CLASSES, KEY, VARIANTS, D, batch, close, gradients, label, parameters
from tests.losses.test_sharding import over_devices
from tests.spread import spread

pytestmark = pytest.mark.usefixtures("hardly_optimized")

WEIGHTS = np.array([0.3, 2.0, 1.1], np.float32)
FORMS = [v for v in VARIANTS if not v[1] or v[1].get("mining") in ("local_class", "distance_weighted")]
FORMS.append(("triplet", {"formula": "soft"}))
SEPARATE = {"soft_triple": {"tau": 0.0}}
"""Options without what a loss adds that no anchor has a part in."""


def weighted_gradients(name, options, x, y, p, weights):
    def loss(x, p):
        return losses.weighted(losses.LOSSES[name], weights)(x, y, *p, **options)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, p)


@pytest.mark.parametrize("variant", spread(FORMS, of=3, turn=1, label=label))
def test_is_the_sum_over_classes(variant):
    """Weights of one class each give parts that add up to the loss and, weighted, to the weighted loss."""
    name, options = variant
    (x, y), p = batch(), parameters(name)
    # Five anchors at a time: blocks, and a part of one.
    options = {**options, **SEPARATE.get(name, {}), "block_size": 5}
    of_weights = jax.jit(functools.partial(weighted_gradients, name, options, x, y, p))
    parts = [of_weights(jnp.eye(CLASSES)[c]) for c in range(CLASSES)]
    plain = jax.jit(functools.partial(gradients, name, options))(x, y, p)
    found = of_weights(WEIGHTS)
    close(jax.tree.map(lambda *v: sum(v), *((v[0][0], v[1]) for v in parts)), (plain[0][0], plain[1]))
    mixed = jax.tree.map(lambda *v: sum(map(np.multiply, v, WEIGHTS)), *((v[0][0], v[1]) for v in parts))
    close(mixed, (found[0][0], found[1]))
    assert found[0][1] == plain[0][1], "the counts are those without weights"
    assert abs(found[0][0] - plain[0][0]) > 1e-3 * abs(plain[0][0])


def loop_contrastive(x, y, margin=1.0):
    positive, negative = [], []
    for a in range(len(y)):
        for j in range(len(y)):
            d = loops.dist(x[:, a], x[:, j])
            if j != a and y[j] == y[a]:
                positive.append(WEIGHTS[y[a]] * d**2 / 2)
            elif y[j] != y[a]:
                negative.append(WEIGHTS[y[a]] * np.where(d.real < margin, margin - d, 0) ** 2 / 2)
    return sum(positive) / len(positive) + sum(negative) / len(negative)


def loop_triplet(x, y, margin=0.2):
    total, active = 0, 0
    for a in range(len(y)):
        for p in range(len(y)):
            for n in range(len(y)):
                if p != a and y[p] == y[a] and y[n] != y[a]:
                    value = loops.dist(x[:, a], x[:, p]) - loops.dist(x[:, a], x[:, n]) + margin
                    if value[0].real > 0:
                        total, active = total + WEIGHTS[y[a]] * value, active + 1
    return total / active


def loop_supervised_contrastive(x, y, temperature=0.1):
    total, valid = 0, 0
    for a in range(len(y)):
        s = {j: loops.cosine(x[:, a], x[:, j]) / temperature for j in range(len(y)) if j != a}
        own = [s[j] for j in s if y[j] == y[a]]
        if own:
            valid += 1
            total = total + WEIGHTS[y[a]] * (loops.log_sum(list(s.values())) - sum(own) / len(own))
    return total / valid


@pytest.mark.parametrize("loop", [loop_contrastive, loop_triplet, loop_supervised_contrastive])
def test_agrees_with_loop(loop):
    x, y = batch(seed=4)
    name = loop.__name__.removeprefix("loop_")
    want, (gradient,) = loops.value_and_gradients(
        lambda x: loops.Result(loop(x, y.tolist())), np.asarray(x, np.float64)
    )
    (value, _), (got, _) = weighted_gradients(name, {}, x, y, (), WEIGHTS)
    np.testing.assert_allclose(value, want.value, rtol=1e-5)
    np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-5 * np.abs(gradient).max())
    (plain, _), _ = gradients(name, {}, x, y, ())
    assert abs(plain - value) > 0.01 * plain


@pytest.mark.parametrize("name", ["normalized_softmax", "arcface", "subcenter_arcface", "sphereface"])
def test_is_what_classification_takes_itself(name):
    (x, y), p = batch(), parameters(name)
    close(
        weighted_gradients(name, {}, x, y, p, WEIGHTS),
        gradients(name, {"class_weights": WEIGHTS}, x, y, p),
    )


@pytest.mark.parametrize(
    ("variant", "how"),
    spread(
        [("triplet", {"formula": "soft"}), ("proxy_anchor", {}), ("margin", {})],
        ["pmap", "shard_map", "explicit"],
        label=label,
    ),
)
def test_same_on_four_devices(variant, how):
    name, options = variant
    w, p = jnp.eye(D) + 0.1 * jax.random.normal(KEY, (D, D)), parameters(name)

    def step(w, p, weights, x, y, axis_name):
        def loss(w, p, weights):
            of_weights = losses.weighted(losses.LOSSES[name], weights)
            return of_weights(x @ w, y, *p, **options, axis_name=axis_name)

        out, found = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(w, p, weights)
        return out, found if axis_name is None else jax.lax.pmean(found, axis_name)

    whole = (w, p, jnp.asarray(WEIGHTS))
    want = jax.jit(functools.partial(step, axis_name=None))(*whole, *batch())
    close(over_devices(step, how, whole, batch()), want)
    assert np.abs(want[1][2]).min() > 0, "the weights have a gradient too"


def test_composes_with_sizes_and_memory():
    x, y = batch()
    sizes = (2,)
    inner = losses.matryoshka(losses.weighted(losses.contrastive, WEIGHTS), sizes)(x, y)
    close(losses.weighted(losses.matryoshka(losses.contrastive, sizes), WEIGHTS)(x, y), inner)
    state = losses.push(losses.memory(5, D), *batch(seed=1))
    weighted = losses.weighted(losses.contrastive, WEIGHTS)
    value, aux = losses.cross_batch(weighted, x, y, state, weight=0.5)
    against = {"references": state.embeddings, "reference_labels": state.labels}
    close(value, weighted(x, y)[0] + 0.5 * weighted(x, y, **against)[0])
    assert aux["memory_valid"] == 12 * 5


def test_bad_arguments_are_named():
    x, y = batch()
    for wrong in ([1.0, -1.0, 1.0], [1.0, np.nan, 1.0], [[1.0, 1.0]], np.array([1, 2, 3]), "text", 1.0):
        with pytest.raises(ValueError, match=r"^class_weights must be a float array \[classes\]"):
            losses.weighted(losses.triplet, wrong)
    loss = losses.weighted(losses.triplet, WEIGHTS[:2])
    with pytest.raises(
        ValueError, match=r"^labels must be in 0\.\.1, the classes of class_weights, got 0\.\.2"
    ):
        loss(x, y)
    with pytest.raises(ValueError, match=r"^labels must be an integer array"):
        loss(x, y.astype(float))
    assert np.isnan(jax.jit(loss)(x, y)[0]), "traced labels cannot be refused"
    with pytest.raises(ValueError, match=r"^margin must be"):
        losses.weighted(losses.triplet, WEIGHTS)(x, y, margin=-1.0)


@pytest.mark.peers
def test_agrees_with_pytorch_metric_learning():
    torch = pytest.importorskip("torch")
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning import distances, reducers
    from pytorch_metric_learning.losses import ContrastiveLoss

    x, y = batch(seed=3)
    loss = ContrastiveLoss(
        neg_margin=1.2,
        distance=distances.LpDistance(normalize_embeddings=False),
        reducer=reducers.ClassWeightedReducer(torch.tensor(WEIGHTS)),
    )
    leaf = torch.tensor(np.asarray(x), requires_grad=True)
    want = loss(leaf, torch.tensor(np.asarray(y)).long())
    want.backward()
    options = {"margin": 1.2, "power": 1}
    (value, _), (found, _) = weighted_gradients("contrastive", options, x, y, (), WEIGHTS)
    np.testing.assert_allclose(value, want.item(), rtol=1e-5)
    np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-4, atol=1e-6)
