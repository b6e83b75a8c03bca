"""Measures time and memory of the triplet losses, value and gradient, beside other libraries and a lower bound.

Reproduces: the claim that all violating triplets cost about as much as the distance matrix. The lower bound,
called the floor, is the three matrix products that any such loss needs: distances, and the gradients of both sides.

Command: python -m experiments.benchmarks.mining [--quick] [--out benchmarks]
Takes: --quick under 50 s; everything about half an hour on 2 CPU cores.
Expect (--quick, 2 CPU cores, hinge over all triplets): at least 30x the faster peer at B=1024 K=16, 20x at B=4096
K=4, 3x at B=256 K=2 and B=64 K=16; at most 3x the floor from B=1024 on.

Peers (extra `peers`, optional): pytorch-metric-learning and sentence-transformers, run in this process; where one
would run out of memory, the table says so. Writes mining.json, .md and .png.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.mining_peers import MARGIN, needed, peers
from experiments.benchmarks.timing import memory, reset_peak, write
from jaxml import losses
from jaxml.losses.kernels import mining
from jaxml.losses.kernels.block_loop import block_rows

WIDTH = 64
QUICK = [("hinge", "all", b, k) for b, k in ((64, 16), (256, 2), (1024, 16), (4096, 4))]
QUICK += [("soft", "all", 1024, 16)]
FIELDS = ("formula", "mining", "B", "K", "who", "ms", "runs", "compile_s", "peak_MiB", "note")
HIGHEST = jax.lax.Precision.HIGHEST


def data(size: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around class centres, such that some but not all triplets violate the margin."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(size) // per_class).astype(np.int32)
    x = rng.normal(size=(size // per_class, WIDTH))[labels] + 1.5 * rng.normal(size=(size, WIDTH))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


@jax.jit
def floor(x: jax.Array) -> Any:
    """The three matrix products of a loss of distances, in blocks of rows as in the loss itself."""
    block = block_rows(*x.shape[:1] * 2)

    def products(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        gram = jax.lax.dot_general(rows, x, (((1,), (1,)), ((), ())), precision=HIGHEST)
        other = jax.lax.dot_general(rows, gram, (((0,), (0,)), ((), ())), precision=HIGHEST)
        return other, jax.lax.dot(gram, x, precision=HIGHEST)

    if x.shape[0] % block or block == x.shape[0]:
        return products(x)

    def step(total: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        other, own = products(rows)
        return total + other, own

    return jax.lax.scan(step, jnp.zeros(x.shape[::-1]), x.reshape(-1, block, x.shape[1]))


def ours(formula: str, mined: str) -> Callable[..., Any]:
    """Value and gradient of our loss, jitted."""
    key = jax.random.key(0) if mined == "distance_weighted" else None
    loss = partial(losses.triplet, formula=formula, mining=mined, margin=MARGIN, key=key)
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def timed(call: Callable[[], Any], seconds: float) -> tuple[float, int]:
    """Median milliseconds of a call that waits for its result, and the number of calls."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (time.perf_counter() < end and len(times) < 200):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(statistics.median(times) * 1e3, 3), len(times)


def measure_jax(function: Any, args: tuple[Any, ...], seconds: float) -> dict[str, Any]:
    """Time, compilation time, and peak memory above that of the inputs."""
    args = tuple(jnp.asarray(a) for a in args)
    start = time.perf_counter()
    compiled = function.lower(*args).compile()
    compile_s = time.perf_counter() - start
    sizes = compiled.memory_analysis()
    ms, runs = timed(lambda: jax.block_until_ready(compiled(*args)), seconds)
    peak = (sizes.temp_size_in_bytes + sizes.output_size_in_bytes) / 2**20
    return {"ms": ms, "runs": runs, "compile_s": round(compile_s, 2), "peak_MiB": round(peak, 1)}


def measure_peer(function: Any, x: np.ndarray, y: np.ndarray, seconds: float, need: float) -> dict[str, Any]:
    """Time and peak memory of a torch function with its backward pass."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0] / 2**30
    else:
        free = memory("MemAvailable", "/proc/meminfo") / 1024 if Path("/proc/meminfo").exists() else np.inf
    if need > free:
        return {"note": f"out of memory: needs {need:.0f} GiB, {free:.0f} GiB are free"}
    leaf = torch.tensor(x, device=device, requires_grad=True)
    labels = torch.tensor(y, device=device).long()

    def call() -> float:
        leaf.grad = None
        loss = function(leaf, labels)
        loss.backward()
        return loss.item()

    before = reset_peak()
    try:
        ms, runs = timed(call, seconds)
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        return {"note": "out of memory"}
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = memory("VmHWM") - before if before is not None else float("nan")
    return {"ms": ms, "runs": runs, "peak_MiB": round(peak, 1)}


def run(cases: list[tuple[str, str, int, int]], seconds: float, with_peers: bool, end: float) -> list[dict]:
    """One row for each case and library, and one of the floor for each size."""
    rows: list[dict[str, Any]] = []
    floors: dict[int, dict[str, Any]] = {}
    for formula, mined, size, per_class in cases:
        x, y = data(size, per_class)
        common = {"formula": formula, "mining": mined, "B": size, "K": per_class}
        if size not in floors:
            floors[size] = measure_jax(floor, (x,), seconds)
        rows.append({**common, "who": "floor", **floors[size]})
        rows.append({**common, "who": "jaxml", **measure_jax(ours(formula, mined), (x, y), seconds)})
        for who, function in (peers(formula, mined) if with_peers else {}).items():
            if time.perf_counter() > end:
                rows.append({**common, "who": who, "note": "not run: out of time"})
                continue
            need = needed(who, size, per_class)
            rows.append({**common, "who": who, **measure_peer(function, x, y, seconds, need)})
        for row in [r for r in rows if all(r[k] == v for k, v in common.items())]:
            print("  ".join(f"{f} {row[f]}" for f in FIELDS if f in row), flush=True)
    return rows


def by_case(rows: list[dict[str, Any]]) -> dict[tuple, dict[str, dict[str, Any]]]:
    """Rows of each case, by library."""
    cases: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault(tuple(row[f] for f in FIELDS[:4]), {})[row["who"]] = row
    return cases


def markdown(rows: list[dict[str, Any]], where: str) -> str:
    """A table with one line per case."""
    lines = [
        f"Value and gradient, D = {WIDTH}, float32, on {where}. Median of the runs, in milliseconds.",
        "",
        "| formula | mining | B | K | floor | jaxml | x floor | peak MiB | compile s | peers | faster peer / jaxml |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (formula, mined, size, per_class), who in by_case(rows).items():
        us, base = who["jaxml"], who["floor"]
        others = {name: row for name, row in who.items() if name not in ("floor", "jaxml")}
        told = "; ".join(
            f"{name} {row['ms']:.1f} ({row['peak_MiB']:.0f} MiB)" if "ms" in row else f"{name}: {row['note']}"
            for name, row in others.items()
        )
        times = [row["ms"] for row in others.values() if "ms" in row]
        gain = f"{min(times) / us['ms']:.1f}" if times else ""
        lines.append(
            f"| {formula} | {mined} | {size} | {per_class} | {base['ms']:.3f} | {us['ms']:.3f} |"
            f" {us['ms'] / base['ms']:.2f} | {us['peak_MiB']} | {us['compile_s']} | {told} | {gain} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory against batch size, for hinge over all triplets."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    for axis, field, title in zip(axes, ("ms", "peak_MiB"), ("milliseconds", "peak MiB"), strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            if (row["formula"], row["mining"]) == ("hinge", "all") and row.get(field):
                name = "floor" if row["who"] == "floor" else f"{row['who']}, K={row['K']}"
                lines.setdefault(name, []).append((row["B"], row[field]))
        for name, points in sorted(lines.items()):
            axis.loglog(
                *zip(*sorted(set(points)), strict=True), "k--" if name == "floor" else "o-", label=name
            )
        axis.set(xlabel="batch size B", ylabel=title, title="hinge, all triplets, value and gradient")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few cases, under 50 s")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2**i for i in range(6, 17)])
    parser.add_argument("--per-class", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument("--mining", nargs="+", choices=mining.MINING, default=list(mining.MINING))
    parser.add_argument("--formula", nargs="+", default=["hinge"])
    parser.add_argument("--seconds", type=float, default=None, help="time spent on each measurement")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    args = parser.parse_args()
    cases = [
        (f, m, b, k) for f in args.formula for m in args.mining for b in args.sizes for k in args.per_class
    ]
    seconds = args.seconds or (0.4 if args.quick else 2.0)
    end = time.perf_counter() + 40 if args.quick else np.inf
    rows = run(QUICK if args.quick else cases, seconds, not args.no_peers, end)
    device = jax.devices()[0]
    where = f"{device.device_kind} ({platform.machine()}, jax {jax.__version__})"
    write(args.out, "mining", rows, markdown(rows, where))
    plot(rows, args.out / "mining.png")


if __name__ == "__main__":
    main()
