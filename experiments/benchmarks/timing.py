"""What the benchmarks share: timing in alternation, the device's rate for matrix products, tables, and provenance."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

# JAX would otherwise take most of a GPU's memory, and PyTorch is measured in the same process.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp

from experiments.benchmarks.notes import markdown
from jaxml.files import write_json

Row = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)
Times = dict[Key, list[float]]


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call, which must wait for its own result."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turn(
    runs: dict[Key, Callable[[], object]], limit: float, least: int = 3, most: int = 200
) -> Times[Key]:
    """Seconds of each run in alternation, so that other work on the machine disturbs all alike; one round is warm-up.

    Rounds are repeated for `limit` seconds, at least `least` and at most `most` times. Every other round takes the runs
    in reverse order.
    """
    for run in runs.values():
        run()
    times: Times[Key] = {name: [] for name in runs}
    end = time.perf_counter() + limit
    for turn in range(most):
        if turn >= least and time.perf_counter() > end:
            break
        for name in list(runs)[:: 1 if turn % 2 == 0 else -1]:
            times[name].append(seconds(runs[name]))
    return times


def ratio(times: Times[Key], name: Key, other: Key) -> float:
    """Speed of `name` as a multiple of that of `other`: the median over the rounds."""
    return statistics.median(b / a for a, b in zip(times[name], times[other], strict=True))


def alternating(
    runs: dict[Key, Callable[[], object]], limit: float, ahead: int = 6, passes: int = 2
) -> Times[Key]:
    """Mean seconds of a call in rows of calls, one row of each run after the other, `passes` times in about `limit` s.

    For input that is read ahead, which in single turns would be ready for nothing. What a queue holds when a row begins
    is used up first, by a third of the row and at least `ahead` calls, which are not counted.
    """
    times: Times[Key] = {name: [] for name in runs}
    share = limit / passes / max(len(runs), 1)
    for name, run in passes * list(runs.items()):
        for least, span in ((ahead, share / 3), (3, share * 2 / 3)):
            start, count = time.perf_counter(), 0
            while count < least or time.perf_counter() - start < span:
                run()
                count += 1
        times[name].append((time.perf_counter() - start) / count)
    return times


def matmul_rate(dtype: str) -> float:
    """FLOP/s of a large square matrix product, best of five."""
    n = 1024 if jax.devices()[0].platform == "cpu" else 8192
    x = jnp.ones((n, n), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * n**3 / min(seconds(lambda: jax.block_until_ready(product(x, x))) for _ in range(6))


def flops(compiled: Any) -> float:
    """XLA's count for one call on one device; loops count once."""
    return (compiled.cost_analysis() or {}).get("flops", float("nan"))


def reset_peak() -> float | None:
    """Reset the peak of this process's memory; returns its present size in MiB, or None if this is not Linux."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return memory("VmRSS")
    except OSError:
        return None


def memory(field: str, path: str = "/proc/self/status") -> float:
    """A field of a /proc file in MiB."""
    line = next(row for row in Path(path).read_text().splitlines() if row.startswith(field))
    return int(line.split()[1]) / 1024


def where() -> str:
    """The provenance of a measurement in one line: device, versions and commit."""
    device = jax.devices()[0]
    found = {
        "device": f"{jax.device_count()} x {device.device_kind}",
        "host": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
    }
    for package in ("jax", "jaxlib", "flax", "torch", "torchvision", "pytorch-metric-learning", "tensorflow"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["commit"] = commit()
    return "Measured on " + ", ".join(f"{key} {value}" for key, value in found.items()) + "."


def commit() -> str:
    """The commit checked out, followed by a plus if files differ from it; `unknown` outside a git repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True)
    except OSError:
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") or "unknown"


def table(rows: list[Row]) -> str:
    """A Markdown table, with columns in the order in which the rows first name them."""
    return markdown(*_columns(rows))


def _columns(rows: list[Row]) -> tuple[list[str], list[list[Any]]]:
    """The names of all columns, and the cells of each row in their order."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return columns, [[row.get(name, "") for name in columns] for row in rows]


def write(out: Path, name: str, rows: list[Row], text: str) -> None:
    """`name`.json, as `notes` reads it, and `name`.md in the folder `out`; prints the latter."""
    out.mkdir(parents=True, exist_ok=True)
    columns, cells = _columns(rows)
    write_json(out / f"{name}.json", {"about": where(), "columns": columns, "rows": cells})
    (out / f"{name}.md").write_text(f"{text}\n{where()}\n")
    print(f"\n{text}\nwritten to {out}")


def bars(out: Path, name: str, groups: dict[str, dict[str, float]], label: str) -> None:
    """`name`.png: one horizontal bar for each name in each group."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(key for group in groups.values() for key in group))
    figure, axis = plt.subplots(figsize=(9, 1 + 0.3 * len(names) * len(groups)), constrained_layout=True)
    for i, (group, values) in enumerate(groups.items()):
        height = 0.8 / len(groups)
        places = [names.index(key) + (i - (len(groups) - 1) / 2) * height for key in values]
        drawn = axis.barh(places, list(values.values()), height, label=group)
        axis.bar_label(drawn, fmt="{:,.0f}", fontsize=7, padding=2)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel=label)
    axis.margins(x=0.12)
    axis.legend(fontsize=8)
    figure.savefig(out / f"{name}.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    print(where())
