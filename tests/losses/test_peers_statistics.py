"""Agreement with pytorch-metric-learning of losses of variances, angles and distributions, and of two views."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxml import losses
from jaxml.distances import l2_normalize

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]
torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")

from pytorch_metric_learning import losses as theirs  # noqa: E402

from tests.losses.test_peers import MEAN, B, batch, compare  # noqa: E402


def test_snr_contrastive():
    """Theirs scales to unit length first."""
    x, y = batch()
    loss = theirs.SignalToNoiseRatioContrastiveLoss(neg_margin=1.8, reducer=MEAN)
    compare(lambda x: losses.contrastive(l2_normalize(x), y, margin=1.8, power=1, distance="snr"), loss, x, y)


@pytest.mark.parametrize("references", [False, True])
def test_angular(references):
    """Theirs leaves the negatives as they are given."""
    x, y = batch()
    refs = batch(seed=1) if references else None
    more = {"references": refs[0], "reference_labels": refs[1]} if references else {}

    def peer(x, *rest, **more):
        return theirs.AngularLoss(alpha=36)(torch.nn.functional.normalize(x), *rest, **more)

    ours = partial(losses.angular, angle=np.radians(36), **more)
    compare(lambda x: ours(x, y), peer, x, y, refs=refs, active=False)


def test_intra_pair_variance():
    x, y = batch()
    loss = theirs.IntraPairVarianceLoss(pos_eps=0.1, neg_eps=0.2)
    options = {"positive_epsilon": 0.1, "negative_epsilon": 0.2}
    compare(lambda x: losses.intra_pair_variance(x, y, **options), loss, x, y)


def test_dynamic_soft_margin():
    """A first batch of pairs. Weights of theirs have a gradient, and its size is part of a later batch's share."""
    x, _ = batch()
    first, second = x[: B // 2], x[B // 2 :]
    want = theirs.DynamicSoftMarginLoss(num_bins=20)(torch.tensor(first), ref_emb=torch.tensor(second))
    labels = np.arange(B // 2)
    value, aux = losses.dynamic_soft_margin(
        first, labels, num_bins=20, references=second, reference_labels=labels
    )
    np.testing.assert_allclose(value, want.item(), rtol=1e-5)
    assert aux["valid"] == B // 2


@pytest.mark.parametrize("num_bins", [100, 7])
def test_histogram(num_bins):
    x, y = batch()
    loss = theirs.HistogramLoss(n_bins=num_bins)
    compare(lambda x: losses.histogram(x, y, num_bins=num_bins), loss, x, y, active=False)


def test_threshold_consistent_margin():
    x, y = batch()
    loss = theirs.ThresholdConsistentMarginLoss(2.0, 0.5, margin_plus=0.7, margin_minus=0.2)
    options = {"positive_margin": 0.7, "negative_margin": 0.2, "positive_weight": 2.0, "negative_weight": 0.5}
    compare(lambda x: losses.threshold_consistent_margin(x, y, **options), loss, x, y)


def test_instance():
    """Where all labels differ; else theirs takes an image's class number for the place of an image."""
    (x, _), y = batch(), np.arange(B)
    compare(lambda x: losses.instance(x, y, scale=16.0), theirs.InstanceLoss(gamma=16), x, y, active=False)


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_vicreg(scale):
    """Of deviations below and above 1; the gradient of both views."""
    views = [scale * batch(seed, unit=False)[0] for seed in (0, 1)]
    leaves = [torch.tensor(view, requires_grad=True) for view in views]
    peer = theirs.VICRegLoss(invariance_lambda=20, variance_mu=15, covariance_v=2)
    want = peer(leaves[0], ref_emb=leaves[1])
    want.backward()
    ours = partial(losses.vicreg, invariance=20.0, variance=15.0, covariance=2.0)
    value, gradients = jax.value_and_grad(lambda *views: ours(*views)[0], argnums=(0, 1))(*views)
    np.testing.assert_allclose(value, want.item(), rtol=2e-5)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        scale = np.abs(leaf.grad.numpy()).max()
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-3, atol=1e-4 * scale)
