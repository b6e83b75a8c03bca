"""Figures of the pages as SVG, in the page's light or dark colours, and the plane on which maps show embeddings."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that matplotlib writes and `svg` replaces by the page's variables, so that a figure follows light and dark.
INK, MUTED, LINE, ACCENT = "#010203", "#040506", "#070809", "#0a0b0c"
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", ACCENT: "var(--accent)"}
LANDMARKS = 1500  # points that t-SNE places
NEAREST = 3  # landmarks between which each other point lies


def svg(figure: Figure) -> Markup:
    """A matplotlib figure as inline SVG; its text can be selected, and its colours are the page's."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxml"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return Markup(text)


def curve(
    steps: Sequence[float],
    values: Sequence[float],
    title: str,
    what: str,
    *,
    best: bool = False,
    share: bool = False,
) -> Markup:
    """One quantity against the step, as SVG; over many points, a running mean is drawn as well.

    Args:
        steps: n numbers.
        values: n numbers; those that are not finite are left out.
        title: heading of the figure.
        what: the quantity, beside its axis.
        best: mark the highest value.
        share: fix the axis of values to 0 .. 1.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    x, y = np.asarray(steps, float), np.asarray(values, float)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    figure = Figure(figsize=(4.2, 3.1), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="step", ylabel=what)
    window = len(y) // 20
    if window < 3:
        axes.plot(x, y, color=ACCENT, linewidth=1.6, marker="o", markersize=3.5 if len(y) <= 40 else 0)
    else:
        axes.plot(x, y, color=ACCENT, linewidth=0.8, alpha=0.35, label="as recorded")
        mean = np.full(window, 1 / window)
        smooth = np.convolve(x, mean, "valid"), np.convolve(y, mean, "valid")
        axes.plot(*smooth, color=ACCENT, linewidth=1.8, label=f"mean of {window} in a row")
        figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8, labelcolor=MUTED)
    if len(y) == 0:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set(xticks=[], yticks=[])
    if len(y) and best:
        top = int(y.argmax())
        axes.plot(x[top], y[top], marker="o", markersize=7, color=ACCENT)
        left = x[top] < (x.min() + x.max()) / 2
        axes.annotate(
            f"{y[top]:.3f} at step {x[top]:,.0f}",
            (x[top], y[top]),
            xytext=(8 if left else -8, 9),
            textcoords="offset points",
            ha="left" if left else "right",
            color=INK,
            fontsize=9,
        )
        axes.margins(y=0.25)
    if share:
        axes.set_ylim(-0.03, 1.03)
    axes.title.set(color=INK, fontsize=11, fontweight="bold")
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set(color=MUTED, fontsize=9)
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True)) if len(y) else None
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    return svg(figure)


def plane(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Two coordinates float [N, 2] for embeddings float [N, D]: t-SNE, or PCA if fewer than 30 points are distinct.

    t-SNE places the first 1,500, which bounds its time. Each point after them lies between the three of these whose
    embeddings are nearest to its own, at their mean weighted by the inverse squared distances.
    """
    x = np.asarray(embeddings, np.float32)
    x = x - x.mean(0, keepdims=True)
    landmarks, rest = x[:LANDMARKS], x[LANDMARKS:]
    if len(np.unique(landmarks, axis=0)) < 30:
        left, scale, _ = np.linalg.svd(np.pad(x, ((0, 2), (0, 2))), full_matrices=False)
        return (left * scale[None, :])[: len(x), :2]
    from sklearn.manifold import TSNE
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    # Its iterations are short: on a busy machine, waiting for each other's threads made them up to six times slower.
    with threadpool_limits(1):
        perplexity = min(30, (len(landmarks) - 1) / 3)
        xy = TSNE(perplexity=perplexity, max_iter=500, random_state=seed).fit_transform(landmarks)
        if len(rest) == 0:
            return xy
        distances, near = NearestNeighbors(n_neighbors=NEAREST).fit(landmarks).kneighbors(rest)
    weights = 1 / np.maximum(distances, 1e-6) ** 2
    weights /= weights.sum(1, keepdims=True)
    return np.concatenate([xy, (weights[:, :, None] * xy[near]).sum(1)])
