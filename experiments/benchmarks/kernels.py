"""Compares losses and mining on the device of this machine with the plain float64 loops of tests/loops.py.

    python -m experiments.benchmarks.kernels

The tests check the same on CPU. On a GPU or TPU it matters more: they multiply matrices in reduced precision unless
told otherwise, and distances are small differences of large numbers. Compares values, counts and gradients of every
loss and way of mining on one batch of which some hinges are active, and checks distances of near-duplicates. Takes
about a minute on two CPU cores, most of it compilation; needs numpy and jaxml only. Ends with an error if anything
differs.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import distances, losses
from jaxml.losses.kernels.formulas import FORMULAS
from jaxml.losses.kernels.mining import MINING
from tests import loops

BATCH, WIDTH, CLASSES = 16, 8, 4
KEY = jax.random.key(7)
CASES: list[tuple[str, dict[str, Any]]] = [
    *(("triplet", {"mining": mining, "margin": 0.3}) for mining in MINING),
    *(("triplet", {"formula": formula, "margin": 0.3}) for formula in FORMULAS if formula != "hinge"),
    *((name, {}) for name in losses.LOSSES if name != "triplet"),
]


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points around class centres, such that some but not all triplets violate the margin."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(BATCH) % CLASSES).astype(np.int32)
    x = rng.normal(size=(CLASSES, WIDTH))[labels] + rng.normal(size=(BATCH, WIDTH))
    return x.astype(np.float32), labels


def wanted(name: str, options: dict[str, Any]) -> tuple[list[np.ndarray], np.ndarray, loops.Result, list]:
    """Inputs, labels, and the loop's result and gradients, for a batch in which rounding changes no decision."""
    for seed in range(100):
        x, labels = batch(seed)
        inputs = [x]
        if name in losses.PARAMETERS:
            start = losses.PARAMETERS[name](jax.random.key(seed), CLASSES, WIDTH)
            inputs.append(np.asarray(start, np.float32) * np.float32(1.1))
        loop = getattr(loops, name)
        result, gradients = loops.value_and_gradients(
            lambda *arrays, loop=loop, labels=labels: loop(*arrays, labels.tolist(), **options), *inputs
        )
        if result.edge > 1e-4:
            return inputs, labels, result, gradients
    raise RuntimeError(f"{name} {options}: rounding decides in every batch that was tried")


def difference(name: str, options: dict[str, Any]) -> float:
    """Largest difference from the loop, in value and gradients, relative to the largest entry; inf if counts differ."""
    if "distance_weighted" in options.values():
        options = {**options, "key": KEY}
    inputs, labels, want, gradients = wanted(name, options)

    # Five anchors in a block: full blocks, and one that is not full.
    def loss(arrays: list[jax.Array]) -> Any:
        return losses.LOSSES[name](arrays[0], labels, *arrays[1:], **options, block_size=5)

    (value, aux), found = jax.jit(jax.value_and_grad(loss, has_aux=True))([jnp.asarray(x) for x in inputs])
    if (int(aux["active"]), int(aux["valid"])) != (want.active, want.valid):
        return float("inf")
    pairs = [(value, want.value), *zip(found, gradients, strict=True)]
    return max(float(np.max(np.abs(np.asarray(a) - b)) / max(np.max(np.abs(b)), 1e-2)) for a, b in pairs)


def near_duplicates() -> float:
    """Largest relative error of distances of 1e-2 between vectors of length 1."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 128))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    step = rng.normal(size=x.shape)
    y = (x + 1e-2 * step / np.linalg.norm(step, axis=1, keepdims=True)).astype(np.float32)
    found = np.asarray(jax.jit(partial(distances.pairwise, distance="euclidean"))(x, y), np.float64)
    want = np.linalg.norm(x.astype(np.float64)[:, None] - y.astype(np.float64)[None], axis=-1)
    return float(np.max(np.abs(found / want - 1)))


def main() -> None:
    start, failed = time.perf_counter(), []
    checks = [
        (f"{name} {' '.join(map(str, o.values()))}", 1e-4, partial(difference, name, o)) for name, o in CASES
    ]
    # Squared lengths of 1 have rounding errors of 6e-8, so a squared distance of 1e-4 is accurate to a few thousandths.
    # In TF32 or bfloat16 it would be lost.
    checks.append(("distances of near-duplicates", 2e-2, near_duplicates))
    for name, tolerance, check in checks:
        error = check()
        if not error < tolerance:
            failed.append(name)
        print(
            f"{name:40} {error:.1e}  {'' if error < tolerance else f'DIFFERS by over {tolerance}'}",
            flush=True,
        )
    took = time.perf_counter() - start
    print(
        f"{len(checks) - len(failed)} of {len(checks)} agree on {jax.devices()[0].device_kind}, {took:.0f} s"
    )
    if failed:
        sys.exit(f"error: these differ from the reference: {', '.join(failed)}")


if __name__ == "__main__":
    main()
