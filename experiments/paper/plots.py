"""Figures of the poster and the report of Shah 2017 from the runs of `reproduce.py`; none shows a photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from jaxml.evaluation import metrics
from jaxml.reports.figures import INK, LINE, MUTED
from jaxml.training import history

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EMBEDDINGS = "test.npz"  # file of a run with its test embeddings, their labels and the class names
WINDOW = 21  # steps in the running mean, which is called the trend
# Rows that share one formula and one margin.
LOSSES = ("a_random", "a_hardest", "a_semi_hard", "a_facenet", "a_kmeans", "b_hinge")
COMPARED = ("frozen", "handcrafted", "a_random", "a_hardest", "b_hinge", "multi_similarity", "proxy_anchor")
SHOWN = ("a_random", "b_hinge", "multi_similarity")
COLOURS = ("#2f6fde", "#e0792b", "#2f9e62", "#c9405a", "#8a5fd0", "#8c7a3d", "#2aa3b8")


def trend(losses: Sequence[float]) -> np.ndarray:
    """Running mean over WINDOW steps, and over fewer at both ends: [n] -> [n]."""
    x = np.asarray(losses, float)
    ones = np.ones(min(WINDOW, 2 * len(x) - 1))
    return np.convolve(x, ones, "same")[: len(x)] / np.convolve(np.ones(len(x)), ones, "same")[: len(x)]


def stability(folder: Path) -> dict[str, float] | None:
    """Mean of a run's logged losses, and their standard deviation about the trend; None if there are too few."""
    losses = [row["loss"] for row in history.read(folder / "metrics.jsonl") if "loss" in row]
    if len(losses) < WINDOW:
        return None
    return {"mean": float(np.mean(losses)), "detrended_std": float(np.std(losses - trend(losses)))}


def draw(workdir: Path, lines: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    """The figures, by name, of the rows that are finished."""
    done = {line["row"]: line for line in reversed(lines)}
    figures = {}
    if runs := [done[name] for name in LOSSES if name in done]:
        figures["losses"] = _losses(workdir, runs)
    if runs := [done[name] for name in COMPARED if name in done]:
        figures["neighbours"] = _neighbours(runs)
    if runs := [done[name] for name in SHOWN if name in done]:
        figures["classes"] = _classes(workdir, runs)
    return figures


def _first(workdir: Path, line: dict[str, Any]) -> Path:
    return workdir / line["row"] / str(line["seeds"][0])


def _losses(workdir: Path, runs: list[dict[str, Any]]) -> Figure:
    """Loss against step, with the running deviation from the trend as a band."""
    columns = -(-len(runs) // 2) if len(runs) > 3 else len(runs)
    figure = _figure(3.3 * columns, 2.7 * -(-len(runs) // columns))
    axes = np.atleast_1d(figure.subplots(-(-len(runs) // columns), columns, sharex=True, sharey=True)).ravel()
    for line, ax, colour in zip(runs, axes, COLOURS, strict=False):
        rows = [row for row in history.read(_first(workdir, line) / "metrics.jsonl") if "loss" in row]
        steps, losses = [row["step"] for row in rows], np.array([row["loss"] for row in rows])
        middle = trend(losses)
        band = np.sqrt(trend((losses - middle) ** 2))
        ax.plot(steps, losses, color=colour, linewidth=0.7, alpha=0.5)
        ax.fill_between(steps, middle - band, middle + band, color=colour, alpha=0.2, linewidth=0)
        ax.plot(steps, middle, color=colour, linewidth=1.8)
        _style(
            ax, f"{line['section'][:7]}: {line['title']}\nstd about the trend {np.std(losses - middle):.4f}"
        )
    for ax in axes[len(runs) :]:
        ax.set_visible(False)
    figure.supxlabel("step", color=MUTED, fontsize=9)
    figure.supylabel("loss, mean over active triplets", color=MUTED, fontsize=9)
    return figure


def _neighbours(runs: list[dict[str, Any]]) -> Figure:
    figure = _figure(9.6, 3.8)
    titles = {
        "recall": "Recall@K: a right one among the K nearest",
        "precision": "Share of right ones among the K nearest",
    }
    for ax, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for line, colour in zip(runs, COLOURS, strict=False):
            values = [line["metrics"][f"{name}@{k}"]["mean"] for k in metrics.KS]
            ax.plot(metrics.KS, values, color=colour, marker="o", markersize=3.5, label=_label(line))
        ax.set_xscale("log", base=2)
        ax.set_xticks(metrics.KS, [str(k) for k in metrics.KS])
        ax.set_xlabel("K", color=MUTED)
        _style(ax, title)
    ax.legend(fontsize=8, frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _classes(workdir: Path, runs: list[dict[str, Any]]) -> Figure:
    """The first two principal components of four random test classes, the same for all runs."""
    figure = _figure(3.4 * len(runs), 3.9)
    for line, ax in zip(runs, np.atleast_1d(figure.subplots(1, len(runs))), strict=True):
        stored = _embeddings(_first(workdir, line) / EMBEDDINGS)
        labels = stored["labels"]
        four = np.sort(np.random.default_rng(0).permutation(np.unique(labels))[:4])
        kept = np.isin(labels, four)
        x = stored["embeddings"][kept]
        left, scale, _ = np.linalg.svd(x - x.mean(0, keepdims=True), full_matrices=False)
        for c, colour in zip(four, COLOURS, strict=False):
            own = labels[kept] == c
            name = stored["class_names"][c].split(".")[-1].replace("_", " ")
            ax.scatter(*(left[own, :2] * scale[None, :2]).T, s=14, color=colour, label=name)
        _style(ax, _label(line))
        ax.set(xticks=[], yticks=[])
    handles, names = ax.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False, labelcolor=INK
    )
    return figure


def _embeddings(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return dict(found)
    except (ValueError, EOFError, BadZipFile):
        raise ValueError(
            f"{path} is damaged; delete it and {path.parent / 'measured.json'}, and the row is scored again"
        ) from None


def _label(line: dict[str, Any]) -> str:
    return f"{line['section'][:7]}, {line['title']}" if line["section"].startswith("Model") else line["title"]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _style(ax: Any, title: str) -> None:
    ax.set_title(title, color=INK, fontsize=9.5)
    ax.tick_params(colors=MUTED, labelsize=8)
    ax.grid(color=LINE, linewidth=0.4, alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(LINE)
