"""Agreement with pytorch-metric-learning, values and gradients, for every loss that both have."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]
torch = pytest.importorskip("torch")
pml = pytest.importorskip("pytorch_metric_learning")

from pytorch_metric_learning import distances, miners, reducers  # noqa: E402
from pytorch_metric_learning import losses as theirs  # noqa: E402

B, K, D = 48, 4, 16
EUCLIDEAN = distances.LpDistance(normalize_embeddings=False)
SQUARED = distances.LpDistance(normalize_embeddings=False, power=2)
MANHATTAN = distances.LpDistance(normalize_embeddings=False, p=1)
DOT = distances.DotProductSimilarity(normalize_embeddings=False)
PEER_DISTANCES = {"euclidean": EUCLIDEAN, "squared": SQUARED, "manhattan": MANHATTAN, "dot": DOT}
MEAN = reducers.MeanReducer()


def batch(seed=0, unit=True, k=K):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(B // k), k))
    x = rng.normal(size=(B // k, D))[y] + rng.normal(size=(B, D))
    if unit:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float32), y.astype(np.int32)


def compare(ours, peer, x, y, mined=None, refs=None, active=True, rtol=2e-5):
    leaf = torch.tensor(x, requires_grad=True)
    more = {} if refs is None else {"ref_emb": torch.tensor(refs[0]), "ref_labels": torch.tensor(refs[1])}
    indices = mined(leaf, torch.tensor(y)) if mined else None
    want = peer(leaf, torch.tensor(y).long(), indices, **more)
    want.backward()
    (value, aux), gradient = jax.value_and_grad(ours, has_aux=True)(jnp.asarray(x))
    assert aux["valid"] > 0
    if active:
        assert 0 < aux["active"] < aux["valid"]
    np.testing.assert_allclose(value, want.item(), rtol=rtol)
    scale = np.abs(leaf.grad.numpy()).max()
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-3, atol=1e-4 * scale)
    return value


@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize(("distance", "peer"), PEER_DISTANCES.items())
def test_triplets_hinge(distance, peer, references):
    x, y = batch()
    refs = batch(seed=1) if references else None
    more = {"references": refs[0], "reference_labels": refs[1]} if references else {}
    loss = theirs.TripletMarginLoss(margin=0.2, distance=peer)  # mean over those above 0
    compare(lambda x: losses.triplet(x, y, distance=distance, **more), loss, x, y, refs=refs)


def test_squared_hinge():
    x, y = batch(unit=False)
    loss = theirs.TripletMarginLoss(margin=0.5, distance=SQUARED)
    compare(lambda x: losses.triplet(x, y, formula="squared_hinge", margin=0.5), loss, x, y)


@pytest.mark.parametrize(("formula", "margin"), [("softplus", 0.0), ("softplus_margin", 0.2)])
def test_softplus(formula, margin):
    x, y = batch(unit=False)
    loss = theirs.TripletMarginLoss(margin=margin, smooth_loss=True, distance=EUCLIDEAN, reducer=MEAN)
    compare(lambda x: losses.triplet(x, y, formula=formula), loss, x, y, active=False)


@pytest.mark.parametrize("options", [{}, {"smooth_loss": True, "reducer": MEAN}])
def test_swap(options):
    x, y = batch()
    loss = theirs.TripletMarginLoss(margin=0.2, swap=True, distance=EUCLIDEAN, **options)
    formula = "softplus_margin" if options else "hinge"
    ours = lambda x: losses.triplet(x, y, formula=formula, swap=True)  # noqa: E731
    compare(ours, loss, x, y, active=not options)


def test_mean_over_all_triplets():
    x, y = batch()
    loss = theirs.TripletMarginLoss(margin=0.2, distance=EUCLIDEAN, reducer=MEAN)
    compare(lambda x: losses.triplet(x, y, reduction="all"), loss, x, y)


@pytest.mark.parametrize(("mining", "kind"), [("semi_hard", "semihard"), ("original_semi_hard", "hard")])
def test_windows(mining, kind):
    x, y = batch()
    miner = miners.TripletMarginMiner(margin=0.2, type_of_triplets=kind, distance=EUCLIDEAN)
    loss = theirs.TripletMarginLoss(margin=0.2, distance=EUCLIDEAN)
    compare(lambda x: losses.triplet(x, y, mining=mining), loss, x, y, mined=miner, active=False)


def test_batch_hard():
    x, y = batch()
    x = x + 2 * np.eye(B // K, D, dtype=np.float32)[y % D] * (
        y[:, None] % 2
    )  # some anchors within the margin
    miner = miners.BatchHardMiner(distance=EUCLIDEAN)
    loss = theirs.TripletMarginLoss(margin=0.2, distance=EUCLIDEAN)
    compare(lambda x: losses.triplet(x, y, mining="batch_hard"), loss, x, y, mined=miner)


def test_easy_positive():
    x, y = batch()
    miner = miners.BatchEasyHardMiner(
        pos_strategy="easy", neg_strategy="all", distance=EUCLIDEAN, allowed_pos_range=None
    )
    loss = theirs.TripletMarginLoss(margin=0.2, distance=EUCLIDEAN)
    compare(lambda x: losses.triplet(x, y, mining="easy_positive"), loss, x, y, mined=miner)


@pytest.mark.parametrize("positive_margin", [0.0, 0.25])
def test_contrastive(positive_margin):
    x, y = batch()
    options = {"margin": 1.2, "positive_margin": positive_margin, "power": 1}
    loss = theirs.ContrastiveLoss(
        pos_margin=positive_margin, neg_margin=1.2, distance=EUCLIDEAN, reducer=MEAN
    )
    compare(lambda x: losses.contrastive(x, y, **options), loss, x, y)


def test_contrastive_over_pairs_above_zero():
    x, y = batch()
    options = {"margin": 1.2, "positive_margin": 0.5, "power": 1, "reduction": "active"}
    loss = theirs.ContrastiveLoss(pos_margin=0.5, neg_margin=1.2, distance=EUCLIDEAN)
    compare(lambda x: losses.contrastive(x, y, **options), loss, x, y)


def with_lone_images():
    """A batch of which three images have no other of their class."""
    x, y = batch()
    y[:3] = [100, 101, 102]
    return x, y


def test_multi_similarity_of_anchors_without_positives():
    x, y = with_lone_images()
    ours = partial(losses.multi_similarity, epsilon=3.0, one_sided=True)
    compare(lambda x: ours(x, y), theirs.MultiSimilarityLoss(alpha=2, beta=50, base=0.5), x, y, active=False)


def test_generalized_lifted_of_anchors_without_positives():
    x, y = with_lone_images()
    loss = theirs.GeneralizedLiftedStructureLoss(neg_margin=1.0, distance=EUCLIDEAN)
    ours = partial(losses.generalized_lifted, margin=1.0, one_sided=True)
    compare(lambda x: ours(x, y), loss, x, y, active=False)


def test_multi_similarity():
    x, y = batch()
    loss = theirs.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)
    miner = miners.MultiSimilarityMiner(epsilon=0.1)
    compare(lambda x: losses.multi_similarity(x, y), loss, x, y, mined=miner)


def test_lifted():
    x, y = batch()
    loss = theirs.LiftedStructureLoss(neg_margin=1.0, distance=EUCLIDEAN)
    compare(lambda x: losses.lifted(x, y, margin=1.0), loss, x, y, active=False)


def test_generalized_lifted():
    x, y = batch(unit=False)
    loss = theirs.GeneralizedLiftedStructureLoss(neg_margin=1.0, distance=EUCLIDEAN)
    compare(lambda x: losses.generalized_lifted(x, y, margin=1.0), loss, x, y, active=False)


def test_n_pairs():
    x, y = batch(k=2)
    first = np.array([np.flatnonzero(y == c)[0] for c in range(B // 2)])
    second = np.array([np.flatnonzero(y == c)[1] for c in range(B // 2)])
    pairs = (torch.tensor(first), torch.tensor(second), torch.tensor(first[:0]), torch.tensor(first[:0]))

    def ours(x):
        labels = np.arange(B // 2)
        return losses.n_pairs(x[first], labels, references=x[second], reference_labels=labels)

    compare(
        ours,
        theirs.NPairsLoss(distance=distances.DotProductSimilarity(normalize_embeddings=False)),
        x,
        y,
        mined=lambda *_: pairs,
        active=False,
    )


def test_nt_xent():
    x, y = batch()
    loss = theirs.NTXentLoss(temperature=0.2)
    compare(lambda x: losses.nt_xent(x, y, temperature=0.2), loss, x, y, active=False)


def test_nt_xent_over_anchors():
    """Theirs counts anchors without positives too, of which there are none here."""
    x, y = batch()
    y[:2] = y[2]  # classes of several sizes
    x, y = (
        x[np.isin(y, np.flatnonzero(np.bincount(y) > 1))],
        y[np.isin(y, np.flatnonzero(np.bincount(y) > 1))],
    )
    loss = theirs.NTXentLoss(temperature=0.2, reducer=reducers.PerAnchorReducer())
    ours = partial(losses.nt_xent, temperature=0.2, reduction="anchors")
    compare(lambda x: ours(x, y), loss, x, y, active=False)


def test_supervised_contrastive():
    x, y = batch()
    loss = theirs.SupConLoss(temperature=0.2)
    compare(lambda x: losses.supervised_contrastive(x, y, temperature=0.2), loss, x, y, active=False)


@pytest.mark.parametrize(("distance", "peer"), PEER_DISTANCES.items())
def test_softmax_over_distances(distance, peer):
    x, y = batch()
    for ours, loss in (
        (losses.nt_xent, theirs.NTXentLoss(temperature=0.2, distance=peer)),
        (losses.supervised_contrastive, theirs.SupConLoss(temperature=0.2, distance=peer)),
    ):
        ours = partial(ours, temperature=0.2, distance=distance)
        compare(lambda x, ours=ours: ours(x, y), loss, x, y, active=False)


def test_margin():
    x, y = batch()
    boundaries = np.random.default_rng(3).uniform(0.8, 1.3, B // K).astype(np.float32)
    loss = theirs.MarginLoss(margin=0.2, beta=1.2, learn_beta=True, num_classes=B // K, distance=EUCLIDEAN)
    loss.beta.data = torch.tensor(boundaries)
    compare(lambda x: losses.margin(x, y, boundaries), loss, x, y)
    got = jax.grad(lambda b: losses.margin(x, y, b)[0])(jnp.asarray(boundaries))
    np.testing.assert_allclose(got, loss.beta.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_margin_with_boundaries_by_count():
    x, y = batch()
    boundaries = np.random.default_rng(3).uniform(0.8, 1.3, B // K).astype(np.float32)
    loss = theirs.MarginLoss(nu=0.1, learn_beta=True, num_classes=B // K, distance=EUCLIDEAN)
    loss.beta.data = torch.tensor(boundaries)
    ours = partial(losses.margin, nu=0.1, nu_per="active")
    compare(lambda x: ours(x, y, boundaries), loss, x, y)
    got = jax.grad(lambda b: ours(x, y, b)[0])(jnp.asarray(boundaries))
    np.testing.assert_allclose(got, loss.beta.grad.numpy(), rtol=1e-4, atol=1e-6)


def with_proxies(ours, peer, theirs_from_ours, p):
    """Gradients of the parameters as well; returns nothing."""
    x, y = batch()
    value = compare(lambda x: ours(x, y, p), peer, x, y, active=False)
    got = jax.grad(lambda p: ours(x, y, p)[0])(jnp.asarray(p))
    want = next(q.grad for q in peer.parameters() if q.grad is not None).numpy()
    np.testing.assert_allclose(theirs_from_ours(got), want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    assert value > 0


def test_proxy_anchor():
    p = np.random.default_rng(4).normal(size=(B // K, D)).astype(np.float32)
    loss = theirs.ProxyAnchorLoss(B // K, D, margin=0.1, alpha=32)
    loss.proxies.data = torch.tensor(p)
    with_proxies(losses.proxy_anchor, loss, np.asarray, p)


def test_soft_triple():
    p = np.random.default_rng(5).normal(size=(B // K, 3, D)).astype(np.float32)
    loss = theirs.SoftTripleLoss(B // K, D, centers_per_class=3, la=20, gamma=0.1, margin=0.01)
    loss.fc.data = torch.tensor(p.reshape(-1, D).T.copy())
    ours = lambda x, y, p: losses.soft_triple(x, y, p, tau=0.0)  # noqa: E731
    with_proxies(ours, loss, lambda g: np.asarray(g).reshape(-1, D).T, p)


CLASSIFIERS = {
    "normalized_softmax": (
        {"scale": 20.0},
        lambda: theirs.NormalizedSoftmaxLoss(
            B // K, D, temperature=0.05, distance=distances.DotProductSimilarity()
        ),
    ),
    "cosface": (
        {"scale": 16.0, "margin": 0.35},
        lambda: theirs.CosFaceLoss(B // K, D, margin=0.35, scale=16),
    ),
    "arcface": (
        {"scale": 16.0, "margin": np.radians(28.6)},
        lambda: theirs.ArcFaceLoss(B // K, D, margin=28.6, scale=16),
    ),
    "sphereface": (
        {"margin": 3.0, "scale": 2.0},
        lambda: theirs.SphereFaceLoss(B // K, D, margin=3, scale=2),
    ),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classification(name):
    options, peer = CLASSIFIERS[name]
    p = np.random.default_rng(7).normal(size=(B // K, D)).astype(np.float32)
    loss = peer()
    loss.W.data = torch.tensor(p.T.copy())
    with_proxies(partial(getattr(losses, name), **options), loss, lambda g: np.asarray(g).T, p)


def test_subcenter_arcface():
    p = np.random.default_rng(8).normal(size=(B // K, 3, D)).astype(np.float32)
    loss = theirs.SubCenterArcFaceLoss(
        num_classes=B // K, embedding_size=D, margin=28.6, scale=16, sub_centers=3
    )
    loss.W.data = torch.tensor(p.reshape(-1, D).T.copy())
    ours = partial(losses.subcenter_arcface, scale=16.0, margin=np.radians(28.6))
    with_proxies(ours, loss, lambda g: np.asarray(g).reshape(-1, D).T, p)


def test_circle():
    x, y = batch()
    loss = theirs.CircleLoss(m=0.4, gamma=8)
    compare(lambda x: losses.circle(x, y, scale=8.0), loss, x, y, active=False)


def test_tuplet_margin():
    x, y = batch()
    loss = theirs.TupletMarginLoss(margin=5.73, scale=16, reducer=MEAN)
    ours = partial(losses.tuplet_margin, scale=16.0, margin=np.radians(5.73))
    compare(lambda x: ours(x, y), loss, x, y, active=False)


@pytest.mark.parametrize(("distance", "peer"), [("euclidean", EUCLIDEAN), ("squared", SQUARED)])
def test_nca(distance, peer):
    x, y = batch()
    loss = theirs.NCALoss(softmax_scale=2, distance=peer)
    compare(lambda x: losses.nca(x, y, scale=2.0, distance=distance), loss, x, y, active=False)


def test_fast_ap():
    x, y = batch()
    compare(lambda x: losses.fast_ap(x, y, num_bins=7), theirs.FastAPLoss(num_bins=7), x, y, active=False)


def test_smooth_ap():
    """Theirs wants the images of a class side by side, and takes their number for that of the classes."""
    x, y = batch(k=6)
    six = np.argsort(y)[:36]
    x, y = x[six], y[six]
    ours = partial(losses.smooth_ap, temperature=0.1, with_anchor=True)
    compare(lambda x: ours(x, y), theirs.SmoothAPLoss(temperature=0.1), x, y, active=False)


def test_ranked_list():
    """Theirs adds 1e-5 to every weight that it divides by."""
    x, y = batch()
    loss = theirs.RankedListLoss(margin=0.4, Tn=3, Tp=1, imbalance=0.3, alpha=1.2, distance=EUCLIDEAN)
    options = {"positive_temperature": 1.0, "negative_temperature": 3.0, "balance": 0.3}
    compare(lambda x: losses.ranked_list(x, y, **options), loss, x, y, rtol=B * 1e-5)


def test_proxy_nca():
    """Theirs keeps the own proxy in the sum."""
    x, y = batch()
    p = np.random.default_rng(6).normal(size=(B // K, D)).astype(np.float32)
    loss = theirs.ProxyNCALoss(B // K, D, softmax_scale=3.0, distance=distances.LpDistance(power=2))
    loss.proxies.data = torch.tensor(p)
    compare(lambda x: losses.proxy_nca(x, y, p, scale=3.0, own_in_sum=True), loss, x, y, active=False)


def test_cross_batch_memory_holds_the_same():
    """Its loss then is a loss with references, compared above; theirs puts the current batch in first."""
    loss = theirs.CrossBatchMemory(theirs.TripletMarginLoss(distance=EUCLIDEAN), D, memory_size=100)
    state = losses.memory(100, D)
    for seed in range(3):
        x, y = batch(seed)
        loss(torch.tensor(x), torch.tensor(y).long())
        state = losses.push(state, x, y)
    ours = sorted(zip(state.labels.tolist(), state.embeddings.tolist(), strict=True))
    kept = sorted(zip(loss.label_memory.tolist(), loss.embedding_memory.tolist(), strict=True))
    assert ours == kept


@pytest.mark.parametrize(
    ("ours", "peer"),
    [
        (
            partial(losses.contrastive, margin=1.2, power=1),
            theirs.ContrastiveLoss(neg_margin=1.2, distance=EUCLIDEAN, reducer=MEAN),
        ),
        (partial(losses.multi_similarity, epsilon=3.0, one_sided=True), theirs.MultiSimilarityLoss()),
        (losses.triplet, theirs.TripletMarginLoss(margin=0.2, distance=EUCLIDEAN)),
        (partial(losses.nt_xent, temperature=0.2), theirs.NTXentLoss(temperature=0.2)),
    ],
    ids=lambda loss: getattr(getattr(loss, "func", loss), "__name__", ""),
)
def test_batch_and_memory(ours, peer):
    """A memory that is filled twice over; of theirs, too, only the anchors have a gradient."""
    loss, state = theirs.CrossBatchMemory(peer, D, memory_size=2 * B + 7), losses.memory(2 * B + 7, D)
    for seed in range(5):
        x, y = batch(seed)
        push = partial(losses.batch_and_memory, ours, labels=y, state=state)
        compare(lambda x, push=push: push(embeddings=x), loss, x, y, active=False)
        state = losses.push(state, x, y)
