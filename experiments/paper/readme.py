"""Write the tables of results/ into README.md, between its two markers.

    cp runs/reproduce/results.json experiments/results/ && python -m experiments.paper.readme

A test fails where README and the result files differ.
"""

from __future__ import annotations

import json
from pathlib import Path

from experiments.paper import tables

EXPERIMENTS = Path(__file__).parents[1]
RESULTS, README = EXPERIMENTS / "results", EXPERIMENTS.parent / "README.md"
START, END = "<!-- written by experiments/paper/readme.py -->\n", "<!-- end -->\n"
UNSTABLE, STABLE = ("a_random", "a_hardest", "a_semi_hard", "a_facenet", "a_kmeans"), "b_hinge"


def results(name: str) -> list[tables.Line]:
    """Lines of a result file; none where it is missing."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else []


def text() -> str:
    """What stands between the markers."""
    lines, longest = results("results"), results("longest")
    parts = [
        tables.markdown([line for line in lines if line["clusters"] == 1]),
        "The nine rows that Shah 2017 published, and the same runs counted in his way:\n",
        tables.like_for_like(lines),
        tables.poster_markdown(lines),
        stability(lines),
    ]
    if longest:
        parts += ["**Longest training**, another budget:\n", tables.markdown(longest)]
        parts += [f"{line['title']}: `{line['train']}`, seeds {line['seeds']}." for line in longest]
    return "\n".join(parts)


def stability(lines: list[tables.Line]) -> str:
    """Model A against Model B in one sentence."""
    std = {line["row"]: line["loss"]["detrended_std"] for line in lines if line["loss"]}
    found = [name for name in UNSTABLE if name in std]
    if STABLE not in std or not found:
        return ""
    each = ", ".join(f"{name.removeprefix('a_').replace('_', ' ')} {std[name]:.4f}" for name in found)
    ratios = [std[name] / std[STABLE] for name in found]
    return (
        f"Standard deviation of the detrended loss (hinge, the same margin and budget): Model A {each}; Model B "
        f"{std[STABLE]:.4f}, {min(ratios):.1f} to {max(ratios):.1f} times less.\n"
    )


def inserted(readme: str) -> str:
    """The README with the present tables."""
    before, rest = readme.split(START)
    return before + START + text() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(inserted(README.read_text(encoding="utf-8")), encoding="utf-8")
