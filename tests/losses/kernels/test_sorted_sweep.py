"""The sorted sweep, which accelerators run, compiled for the CPU and compared with plain float64 loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxml.losses.kernels import sorted_sweep, windows
from jaxml.losses.kernels.blocks import References
from jaxml.losses.kernels.formulas import FORMULAS, Options
from jaxml.losses.kernels.measures import square_of
from jaxml.losses.kernels.mining import MINING
from tests import loops
from tests.spread import spread

pytestmark = pytest.mark.usefixtures("hardly_optimized")

# Classes of one, of two, and one of more rows than a sweep takes slots at a time.
SIZES = (1, 2, 5, 19, 3)
WIDTH = 5
SORTED = [name for name, mining in MINING.items() if mining.has_sorted_form]
OTHERS = [
    *((formula, "all", "euclidean") for formula in FORMULAS if formula not in ("hinge", "soft")),
    ("softplus", "semi_hard", "euclidean"),
    ("ratio", "local", "euclidean"),
    ("soft", "all", "cosine"),
    ("hinge", "all", "squared"),
    ("hinge", "semi_hard", "cosine"),
    ("squared_hinge", "all", "cosine"),
]
CASES = [*((formula, mining, "euclidean") for mining in SORTED for formula in ("hinge", "soft")), *OTHERS]


def batch(seed, sizes):
    """Rows of about unit length around the centres of their classes, in random order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(sizes)) * 7 - 3, sizes)).astype(np.int32)
    x = (rng.normal(size=(7 * len(sizes), WIDTH))[y + 3] + rng.normal(size=(len(y), WIDTH))) / 4
    return x.astype(np.float32), y


def value_and_gradients(
    x, y, references, *, formula, mining, distance="euclidean", axis_name=None, block_size=None
):
    formula, mining = FORMULAS[formula], MINING[mining]
    options = Options(margin=0.3, quantile=0.6, cutoff=0.5, upper_cutoff=1.4)
    measure = square_of(distance) if formula.squared else distance
    plan = {"formula": formula, "mining": mining, "measure": measure}

    def loss(x, r):
        others = None if r is None else references._replace(embeddings=r)
        sums = sorted_sweep.terms(x, y, others, options, block_size=block_size, axis_name=axis_name, **plan)
        return sums.value / jnp.maximum(sums.active, 1.0), (sums.active, sums.valid)

    r = None if references is None else references.embeddings
    return jax.value_and_grad(loss, argnums=0 if r is None else (0, 1), has_aux=True)(x, r)


def compare(found, want, gradients):
    (value, (active, mined)), got = found
    assert (int(active), int(mined)) == (want.active, want.valid)
    np.testing.assert_allclose(value, want.value, rtol=1e-5)
    for g, w in zip(got, gradients, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4 * abs(w).max())


@pytest.mark.parametrize(("mining", "formula"), spread(SORTED, ["hinge", "soft"]))
def test_agrees_with_loop(mining, formula):
    check((formula, mining, "euclidean"))


@pytest.mark.parametrize("case", OTHERS, ids="-".join)
def test_other_forms_agree_with_loop(case):
    check(case)


def check(case):
    plan = dict(zip(("formula", "mining", "distance"), case, strict=True))
    ours = jax.jit(partial(value_and_gradients, references=None, **plan))
    checked, shares = 0, []
    for seed in range(12):
        x, y = batch(seed, SIZES)
        want, gradients = loops.value_and_gradients(
            lambda x, y=y: loops.triplet(x, y.tolist(), margin=0.3, **plan), x
        )
        if want.edge > 2e-6:
            (result, gradient) = ours(x, y)
            compare((result, [gradient]), want, gradients)
            shares.append(want.active / want.valid)
            checked += 1
    assert checked >= 2
    # In a window, all triplets are active.
    if (
        FORMULAS[plan["formula"]].kind == "hinge"
        and MINING[plan["mining"]].negatives.window is windows.anywhere
    ):
        assert any(0 < share < 1 for share in shares)


@pytest.mark.parametrize(
    ("mining", "against"), spread(SORTED, ["hinge-masked", "soft-masked", "hinge", "soft"])
)
def test_agrees_with_loop_against_references(mining, against):
    formula, *masked = against.split("-")
    plan = {"formula": formula, "mining": mining, "distance": "euclidean"}
    ours = jax.jit(lambda x, y, references: value_and_gradients(x, y, references, **plan))
    checked = 0
    for seed in range(8):
        (x, y), (r, ry) = batch(seed, (2, 1, 4)), batch(seed + 100, (3, 6, 20, 2))
        there = np.arange(len(ry)) % 3 > 0 if masked else np.ones(len(ry), bool)
        want, (of_x, of_there) = loops.value_and_gradients(
            lambda x, r, y=y, ry=ry[there]: loops.triplet(
                x, y.tolist(), r, ry.tolist(), margin=0.3, formula=formula, mining=mining
            ),
            x,
            r[there],
        )
        if want.edge > 2e-6:
            of_r = np.zeros_like(r, np.float64)
            of_r[there] = of_there
            references = References(r, ry, there if masked else None)
            compare(ours(x, y, references), want, [of_x, of_r])
            checked += 1
    assert checked >= 2


@pytest.mark.parametrize(
    ("case", "check_vma"),
    spread(
        [("all", False), ("local_class", False), ("local_class", True)],
        [True, False],
        label=lambda case: f"{case[0]}-{case[1]}",
    ),
)
def test_is_the_same_on_four_devices(case, check_vma):
    mining, referenced = case
    x, y = batch(3, (1, 2, 5, 19, 3, 2))
    references = References(*batch(4, (3, 6, 2))) if referenced else None
    plan = {"formula": "hinge", "mining": mining, "distance": "euclidean"}
    want = value_and_gradients(x, y, references, **plan)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    def step(x, y):
        result, gradient = value_and_gradients(x, y, references, axis_name="batch", block_size=3, **plan)
        of_x, *rest = gradient if referenced else (gradient,)
        return result, of_x, rest

    divided = jax.shard_map(
        step, mesh=mesh, in_specs=P("batch"), out_specs=(P(), P("batch"), P()), check_vma=check_vma
    )
    result, of_x, rest = jax.jit(divided)(x, y)
    # Without check_vma, every device differentiates the sum of the losses of all devices.
    got = jax.tree.leaves((result, of_x if check_vma else of_x / 4))
    wanted = jax.tree.leaves(want)
    for g, w in zip(got, wanted, strict=False):
        np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-5 * abs(np.asarray(w)).max())
    if referenced and check_vma:
        np.testing.assert_allclose(
            rest[0], wanted[-1], rtol=2e-5, atol=2e-5 * abs(np.asarray(wanted[-1])).max()
        )


def test_no_loop_holds_a_gather_or_a_scatter():
    """Gathers and scatters are the slowest operations of an accelerator, so no loop that it is given may hold one."""
    x = jax.ShapeDtypeStruct((64, 8), jnp.float32)
    y = jax.ShapeDtypeStruct((64,), jnp.int32)
    for case in CASES:
        plan = dict(zip(("formula", "mining", "distance"), case, strict=True))
        for references in (None, References(x, y, jnp.ones(64, bool))):
            jaxpr = jax.make_jaxpr(lambda x, y, r: value_and_gradients(x, y, r, **plan))(x, y, references)  # noqa: B023
            found = set(_in_loops(jaxpr.jaxpr, False))
            assert not found, (case, found)


def _in_loops(jaxpr, inside):
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if inside and (name == "gather" or name.startswith("scatter")):
            yield name
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda v: hasattr(v, "jaxpr") or hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _in_loops(inner, inside or name in ("while", "scan"))


@pytest.mark.parametrize("formula", ["hinge", "soft", "softplus", "softplus_margin"])
def test_the_margin_has_a_gradient(formula):
    x, y = batch(5, SIZES)
    plan = {"formula": FORMULAS[formula], "mining": MINING["all"], "measure": "euclidean"}

    def loss(margin):
        options = Options(margin=margin, quantile=0.6, cutoff=0.5, upper_cutoff=1.4)
        sums = sorted_sweep.terms(x, y, None, options, block_size=None, axis_name=None, **plan)
        return sums.value / sums.active

    step, rows = 1e-20, x.astype(np.float64)[None].astype(complex)
    # The loops take complex margins only where no comparison is made with them.
    want = loops.triplet(rows, y.tolist(), formula=formula, margin=0.3 + 1j * step).value[0].imag / step
    np.testing.assert_allclose(jax.grad(loss)(0.3), want, rtol=1e-5)
    assert (want == 0) == (formula == "softplus")
