"""Writes the tables of experiments/results/ into README.md and pages of docs/, between two markers in each.

    cp runs/reproduce/results.json experiments/results/ && python -m experiments.paper.readme

A test fails where the documents and the result files differ.
"""

from __future__ import annotations

import json
from pathlib import Path

from experiments.paper import options, rates, tables

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
START, END = "<!-- written by experiments/paper/readme.py -->\n", "<!-- end -->\n"
UNSTABLE, STABLE = ("a_random", "a_hardest", "a_semi_hard", "a_facenet", "a_kmeans"), "b_hinge"
PROTOCOLS = {
    "cropped": ("**Longest training**, another budget:\n", tables.markdown),
    "whole": ("The same of whole images:\n", tables.markdown),
    "poster": (
        "The same on the poster's split, cropped, counted without labels and in his way:\n",
        tables.both_ways,
    ),
}
"""How the longest trainings are divided and cropped; rows of different ones stand in different tables."""
LARGE = (
    "The original's two models under the larger budget: 96,000 images at 128 px (1,000 steps of 96), "
    "EfficientNet-Lite0 with six frozen stages, 64 dimensions. Where there are several training seeds ± is over them, "
    "else over K-means seeds. `python -m experiments.paper.reproduce --data_root CUB_200_2011 --budget large`\n"
)
SHORT = ("pixels", "frozen", "b_hinge", "multi_similarity")
"""Rows of results.json that README shows."""


def results(name: str) -> list[tables.Line]:
    """Lines of a result file; an empty list if there is no such file."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else []


def summary() -> str:
    """The table of README: a few rows of the small budget, and the longest training, all of birds cropped to boxes."""
    lines = [line for line in results("results") if line["clusters"] == 1 and line["row"] in SHORT]
    lines = sorted(lines, key=lambda line: SHORT.index(line["row"]))
    text = "| | NMI | pairwise F1 | Recall@1 |\n|---|---|---|---|\n"
    for line in [*lines, *longest("cropped")]:
        numbers = [tables.number(line, name) for name in ("nmi", "f1", "recall@1")]
        text += f"| {line['title']} | {' | '.join(numbers)} |\n"
    return text


def full() -> str:
    """The tables of docs/results.md."""
    lines = results("results")
    parts = [
        tables.markdown([line for line in lines if line["clusters"] == 1]),
        "The nine rows that Shah 2017 published, and the same runs counted in his way:\n",
        tables.like_for_like(lines),
        tables.poster_markdown(lines),
        stability(lines),
    ]
    if large := results("large"):
        parts += [
            LARGE,
            tables.markdown([line for line in large if line["clusters"] == 1]),
            stability(large),
            rates.table(results("rates")),
        ]
    for protocol, (heading, table) in PROTOCOLS.items():
        if found := longest(protocol):
            parts += [heading, table(found)]
            parts += [f"{line['title']}: `{line['train']}`, seeds {line['seeds']}.\n" for line in found]
    return "\n".join(parts)


def longest(protocol: str) -> list[tables.Line]:
    """The longest trainings of one of `PROTOCOLS`."""
    return [line for line in results("longest") if _protocol(line) == protocol]


def _protocol(line: tables.Line) -> str:
    if "--data.split poster" in line["train"]:
        return "poster"
    return "whole" if "--data.no_crop_to_box" in line["train"] else "cropped"


def compared() -> str:
    """The table of docs/few_dimensions.md: what each option gives."""
    return options.table(results("options"))


DOCUMENTS = {
    ROOT / "README.md": summary,
    ROOT / "docs" / "results.md": full,
    ROOT / "docs" / "few_dimensions.md": compared,
}


def stability(lines: list[tables.Line]) -> str:
    """One sentence that compares the stability of Model A with that of Model B."""
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


def inserted(document: str, written: str) -> str:
    """The document with the text between its markers replaced."""
    before, rest = document.split(START)
    return before + START + written + END + rest.split(END)[1]


if __name__ == "__main__":
    for path, write in DOCUMENTS.items():
        path.write_text(inserted(path.read_text(encoding="utf-8"), write()), encoding="utf-8")
