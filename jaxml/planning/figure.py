"""Draws a plan: the memory of a chip, the batches that were compiled, and the traffic and operations of each part."""

from __future__ import annotations

from pathlib import Path

from jaxml.planning.account import PARTS
from jaxml.planning.compiler import Compiled
from jaxml.planning.plan import Plan
from jaxml.planning.summary import MEMORY
from jaxml.planning.targets import GIB

INK, MUTED, LINE = "#1c2530", "#667382", "#d5dbe1"
REFUSED = "#c0504d"
COLOURS = ("#2f6f9f", "#e08a3c", "#4c9a6a", "#8a64a8", "#9aa5b1")


def draw(plan: Plan, path: Path) -> None:
    """Write the figure of a plan as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.4), layout="constrained", dpi=150)
    figure.suptitle(_title(plan), x=0.01, ha="left", fontsize=11, color=INK)
    if isinstance(plan.step, Compiled):
        above, below = figure.subplots(2, 2, height_ratios=(1, 1))
        _memory(above[0], plan, plan.step)
        _batches(above[1], plan)
        found = plan.step.account
        _parts(below[0], "Memory traffic of a step, GB", {p: found.hbm_bytes.get(p, 0) / 1e9 for p in PARTS})
        operations = {p: sum(found.operations.get(p, {}).values()) / 1e9 for p in PARTS}
        _parts(below[1], "Operations of matrix products, 10^9", operations)
    else:
        _batches(figure.subplots(), plan)
    figure.savefig(path)


def _title(plan: Plan) -> str:
    config, target = plan.config, plan.target
    chips = f"{target.count} x {target.chip.title}" if target.count > 1 else target.chip.title
    return (
        f"{config.model.backbone}, {config.model.dtype}, {config.loss.name}, {plan.tried[0].images:,} images of "
        f"{config.data.size} px a step on {chips}: {'fits' if plan.fits else 'does not fit'}\n"
        f"figures of one chip, compiled, not measured"
    )


def _style(axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=MUTED, labelsize=9)


def _memory(axes, plan: Plan, step: Compiled) -> None:
    available, left = plan.target.chip.memory / GIB, 0.0
    for (name, title), colour in zip(MEMORY.items(), COLOURS, strict=False):
        size = getattr(step.memory, name) / GIB
        axes.barh([0], [size], left=left, color=colour, height=0.5, label=f"{title} {size:.2f}")
        left += size
    axes.axvline(available, color=INK, linewidth=1.2, linestyle="--")
    axes.text(
        available, 0.42, f"{available:.1f} on the chip ", ha="right", va="bottom", fontsize=9, color=INK
    )
    axes.set(xlim=(0, 1.03 * max(available, left)), ylim=(-0.4, 0.75), yticks=[])
    _style(axes, f"Memory, {left:.2f} GiB")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=9, frameon=False)


def _batches(axes, plan: Plan) -> None:
    from matplotlib.ticker import MaxNLocator

    known = sorted((b for b in plan.tried if b.memory), key=lambda b: b.images)
    axes.plot([b.images for b in known], [b.memory / GIB for b in known], color=LINE, zorder=1)
    for fits, colour, label in ((True, COLOURS[2], "fits"), (False, REFUSED, "does not fit")):
        if some := [b for b in known if b.fits is fits]:
            axes.scatter(
                [b.images for b in some], [b.memory / GIB for b in some], color=colour, label=label, zorder=2
            )
    axes.axhline(plan.target.chip.memory / GIB, color=INK, linewidth=1.2, linestyle="--")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("images a step", fontsize=9, color=MUTED)
    _style(axes, "Batches compiled, GiB a chip")
    if known:
        axes.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _parts(axes, title: str, values: dict[str, float]) -> None:
    bars = axes.barh(PARTS, [values[name] for name in PARTS], height=0.6, color=COLOURS[0])
    labels = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values.values()]
    axes.bar_label(bars, labels, padding=3, fontsize=9, color=INK)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.invert_yaxis()
    axes.margins(x=0.18)
    _style(axes, title)
