"""Figures of the pages as SVG, in the page's light or dark colours: curves and maps of embeddings."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from jaxml.reports import page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that matplotlib writes and `svg` replaces by the page's variables, so that a figure follows light and dark.
INK, MUTED, LINE, ACCENT = "#010203", "#040506", "#070809", "#0a0b0c"
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", ACCENT: "var(--accent)"}
MAX_MAPPED = 1500  # images
STEP, SIDE = 46, 42  # of the cells of a map and of the pictures in them, in units of the drawing


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
    steps: Sequence[float], values: Sequence[float], title: str, *, best: bool = False, share: bool = False
) -> Markup:
    """One quantity against the step, as SVG; over many points, a running mean is drawn as well.

    Args:
        steps: n numbers.
        values: n numbers; those that are not finite are left out.
        title: heading of the figure.
        best: mark the highest value.
        share: fix the axis of values to 0 .. 1.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    x, y = np.asarray(steps, float), np.asarray(values, float)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    figure = Figure(figsize=(4.2, 2.9), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="step")
    window = len(y) // 20
    if window < 3:
        axes.plot(x, y, color=ACCENT, linewidth=1.6, marker="o", markersize=3.5 if len(y) <= 40 else 0)
    else:
        axes.plot(x, y, color=ACCENT, linewidth=0.8, alpha=0.35)
        smooth = np.convolve(y, np.full(window, 1 / window), "valid")
        axes.plot(np.convolve(x, np.full(window, 1 / window), "valid"), smooth, color=ACCENT, linewidth=1.8)
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
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True)) if len(y) else None
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    return svg(figure)


def plane(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Two coordinates float [N, 2] for embeddings float [N, D]: t-SNE, or PCA if fewer than 30 points are distinct."""
    x = np.asarray(embeddings, np.float32)
    x = x - x.mean(0, keepdims=True)
    if len(np.unique(x, axis=0)) < 30:
        left, scale, _ = np.linalg.svd(np.pad(x, ((0, 2), (0, 2))), full_matrices=False)
        return (left * scale[None, :])[: len(x), :2]
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # Its iterations are short: on a busy machine, waiting for each other's threads made them up to six times slower.
    with threadpool_limits(1):
        return TSNE(perplexity=min(30, (len(x) - 1) / 3), max_iter=500, random_state=seed).fit_transform(x)


def picture_map(
    embeddings: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    names: Sequence[str],
    *,
    seed: int = 0,
    columns: int = 26,
    rows: int = 16,
) -> Markup:
    """A map of embeddings as SVG, in which pictures that are alike to the network lie near each other.

    The plane of the embeddings is cut into cells, and each cell shows the picture nearest to its middle, framed in a
    colour of its class; so pictures do not overlap. At most 1,500 random images take part.

    Args:
        embeddings: float [N, D].
        labels: int [N].
        images: uint8 [N, s, s, 3].
        names: N texts that appear on hovering.
        seed: chooses the images that take part and the plane.
        columns: of the map.
        rows: of the map.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(embeddings))[:MAX_MAPPED])
    xy = plane(np.asarray(embeddings)[chosen], seed)
    low, high = xy.min(0, keepdims=True), xy.max(0, keepdims=True)
    place = (xy - low) / np.maximum(high - low, 1e-12) * np.array([[columns - 1, rows - 1]])
    cells = np.rint(place).astype(int)
    order = np.argsort(((place - cells) ** 2).sum(1), kind="stable")
    _, first = np.unique(cells[order], axis=0, return_index=True)
    classes, class_of = np.unique(labels, return_inverse=True)
    places = [
        {
            "x": STEP * int(cells[i][0]) + 2,
            "y": STEP * int(cells[i][1]) + 2,
            "name": names[chosen[i]],
            "source": page.data_uri(images[chosen[i]], size=64, quality=75),
            # The golden angle keeps the hues of successive classes far apart.
            "colour": f"hsl({class_of[chosen[i]] * 137.508 % 360:.0f} 65% 50%)",
        }
        for i in order[first]
    ]
    label = f"Map of {len(chosen)} embeddings of {len(classes)} classes"
    size = {"width": columns * STEP, "height": rows * STEP, "side": SIDE}
    return Markup(page.render("picture_map.svg", places=places, label=label, **size))
