"""The page for those who come from pytorch-metric-learning: both of its sides run, and compute the same."""

import re
from functools import partial
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]
torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")

TEXT = (Path(__file__).parents[1] / "docs/from_pytorch_metric_learning.md").read_text(encoding="utf-8")
START, *SECTIONS = re.split(r"^## ", TEXT, flags=re.M)
SECTIONS = {section.partition("\n")[0]: section for section in SECTIONS}


def run(text, theirs, ours):
    """Execute the blocks of both sides."""
    for language, code in re.findall(r"^```(py|python)\n(.*?)^```$", text, re.S | re.M):
        exec(compile(code, "from_pytorch_metric_learning.md", "exec"), theirs if language == "py" else ours)


def number(value):
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def same(theirs, ours):
    np.testing.assert_allclose(number(ours), number(theirs), rtol=1e-4, atol=1e-6)


def same_losses(theirs, ours):
    assert number(theirs.loss) > 0.01
    same(theirs.loss, ours.loss)


def a_loss(theirs, ours):
    same_losses(theirs, ours)
    assert 0 < ours.aux["active"] < ours.aux["valid"]
    same(theirs.gradient, ours.gradient)


def with_proxies(theirs, ours):
    """A step from the same parameters."""
    dense = ours.params["network"]["params"]
    for parameter, value in (
        (theirs.network.weight, dense["kernel"].T),
        (theirs.network.bias, dense["bias"]),
        (theirs.loss_func.proxies, ours.params["proxies"]),
    ):
        parameter.data = torch.tensor(np.array(value))
    params, _, loss = ours.step(ours.params, ours.state, ours.inputs, ours.labels)
    same(theirs.step(theirs.inputs, theirs.labels), loss)
    same(theirs.loss_func.proxies, params["proxies"])
    same(theirs.network.weight.T, params["network"]["params"]["kernel"])
    assert np.abs(params["proxies"] - ours.params["proxies"]).max() > 1e-3


def arcface(theirs, ours):
    theirs.loss_func.W.data = torch.tensor(np.array(ours.proxies.T))
    same(theirs.loss_func(theirs.embeddings, theirs.labels), ours.loss)


def memory(theirs, ours):
    """The same is kept, and the first batch has the loss of the batch alone."""
    same(theirs.loss_func.embedding_memory[:32], ours.memory.embeddings[:32])
    same(theirs.loss_func.label_memory[:32], ours.memory.labels[:32])
    assert ours.memory.filled.sum() == 32
    alone = ours.losses.contrastive(ours.embeddings, ours.labels)[0]
    same(theirs.losses.ContrastiveLoss()(theirs.embeddings, theirs.labels), theirs.loss)
    same(alone, ours.loss)


def sampler(theirs, ours):
    for side in (theirs, ours):
        for batch in side.batches:
            assert len({*batch.tolist()}) == 32
            _, counts = np.unique(side.data_labels[batch], return_counts=True)
            assert counts.tolist() == [4] * 8


def scores(theirs, ours):
    for name, own in (
        ("precision_at_1", "recall@1"),
        ("r_precision", "r_precision"),
        ("mean_average_precision_at_r", "map@r"),
    ):
        assert 0 < theirs.scores[name] < 1
        same(theirs.scores[name], ours.scores[own])


def search(theirs, ours):
    assert number(theirs.rows).tolist() == ours.rows.tolist()
    # The own picture has distance 0, of which PML takes a root with rounding.
    np.testing.assert_allclose(ours.found, number(theirs.found), atol=2e-3)


def whole_table(theirs, ours):
    rows = re.findall(r"^\| (`\w.*`) \| (`.*`) \|$", SECTIONS["The same value"], re.M)
    assert len(rows) == SECTIONS["The same value"].count("\n| `") > 20
    ours.proxies = np.random.default_rng(1).normal(size=(8, 64)).astype(np.float32)
    for left, right in rows:
        loss, *miner = (eval(code, vars(theirs)) for code in re.findall("`(.*?)`", left))
        for parameter in loss.parameters():
            shape = tuple(parameter.shape)
            if len(shape) == 2:  # boundaries, one for each class, are the same on both sides
                parameter.data = torch.tensor(ours.proxies if shape == (8, 64) else ours.proxies.T.copy())
        x, y = theirs.embeddings.detach(), theirs.labels
        want = loss(x, y, *(mine(x, y) for mine in miner))
        value = eval(right.strip("`"), vars(ours))[0]
        assert want > 1e-3, left
        np.testing.assert_allclose(value, want.item(), rtol=1e-4, err_msg=f"{left} {right}")


def differences(theirs, ours):
    defaults = {name: signature(ours.losses.LOSSES[name]).parameters for name in ("triplet", "nt_xent")}
    assert (theirs.losses.TripletMarginLoss().margin, defaults["triplet"]["margin"].default) == (0.05, 0.2)
    assert (theirs.losses.NTXentLoss().temperature, defaults["nt_xent"]["temperature"].default) == (0.07, 0.1)
    x, y = theirs.embeddings.detach(), theirs.labels
    one = torch.zeros_like(y)
    assert theirs.losses.SupConLoss()(x, one) == 0
    assert ours.losses.supervised_contrastive(ours.embeddings, np.zeros(32, int))[0] > 1
    smooth_ap = partial(ours.losses.smooth_ap, with_anchor=True)
    assert abs(theirs.losses.SmoothAPLoss()(x, y).item() - smooth_ap(ours.embeddings, ours.labels)[0]) > 0.01
    square = np.repeat(np.arange(5), 5)
    same(
        theirs.losses.SmoothAPLoss()(x[:25], torch.tensor(square)), smooth_ap(ours.embeddings[:25], square)[0]
    )
    pairs = theirs.losses.NPairsLoss()
    pairs(x, y)
    assert pairs.num_pairs == 8
    assert ours.losses.n_pairs(ours.embeddings, ours.labels)[1]["valid"] == 32 * 3
    proxies = theirs.losses.ProxyNCALoss(8, 64)
    proxies.proxies.data = torch.tensor(np.array(ours.proxies))
    proxy_nca = partial(ours.losses.proxy_nca, ours.embeddings, ours.labels, ours.proxies)
    same(proxies(x, y), proxy_nca(own_in_sum=True)[0])
    assert abs(proxies(x, y).item() - proxy_nca()[0]) > 0.01


CHECKS = {
    "A loss": a_loss,
    "A miner and a loss": same_losses,
    "A distance": same_losses,
    "A loss with proxies, and its optimiser": with_proxies,
    "ArcFace": arcface,
    "Cross-batch memory": memory,
    "Several devices": same_losses,
    "The sampler": sampler,
    "AccuracyCalculator": scores,
    "Queries and references apart": scores,
    "Search": search,
    "The same value": whole_table,
    "What differs": differences,
}


def test_both_sides_compute_the_same():
    assert [*CHECKS] == [*SECTIONS]
    theirs, ours = {}, {}
    run(START, theirs, ours)
    for title, check in CHECKS.items():
        run(SECTIONS[title], theirs, ours)
        check(SimpleNamespace(**theirs), SimpleNamespace(**ours))
