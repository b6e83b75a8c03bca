"""Agreement with the triplet losses of sentence-transformers, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import losses

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]
torch = pytest.importorskip("torch")

CASES = {
    "BatchAllTripletLoss": {"mining": "all"},
    "BatchHardTripletLoss": {"mining": "batch_hard", "reduction": "all"},
    "BatchHardSoftMarginTripletLoss": {"mining": "batch_hard", "formula": "softplus"},
    "BatchSemiHardTripletLoss": {"mining": "nearest_semi_hard", "reduction": "all"},
}


@pytest.fixture(scope="module")
def theirs():
    """Their losses, whose import takes long."""
    transformers = pytest.importorskip("transformers.utils")
    # It would import torchvision, whose operators are missing where it was built for another build of torch.
    transformers.is_torchvision_available = transformers.import_utils.is_torchvision_available = lambda: False
    return pytest.importorskip("sentence_transformers.sentence_transformer.losses")


@pytest.mark.parametrize("name", CASES)
def test_triplets(name, theirs):
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(8), 5))
    x = ((rng.normal(size=(8, 6))[y] + 0.7 * rng.normal(size=(40, 6))) / 4).astype(np.float32)
    margin = {} if "Soft" in name else {"margin": 0.1}
    leaf = torch.tensor(x, requires_grad=True)
    want = getattr(theirs, name)(None, **margin).compute_loss_from_embeddings([leaf], torch.tensor(y))
    want.backward()
    (value, aux), gradient = jax.value_and_grad(
        lambda x: losses.triplet(x, y, **CASES[name], **margin), has_aux=True
    )(jnp.asarray(x))
    np.testing.assert_allclose(value, want.item(), rtol=2e-5)
    np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-3, atol=1e-5)
    assert aux["active"] < aux["valid"] or CASES[name]["mining"] == "batch_hard"
