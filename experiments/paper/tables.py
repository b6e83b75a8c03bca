"""Writes what `reproduce.py` measured as results.json, as Markdown tables and as a page with figures."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from experiments.paper import plots
from experiments.paper.rows import PRESET, Row, changes
from jaxml.commands.options import train_options
from jaxml.files import write_atomically
from jaxml.reports import figures, page
from jaxml.reports.scores import PUBLISHED
from jaxml.training import records

Line = dict[str, Any]
MEASURED = "measured.json"
SPACE = "\N{NO-BREAK SPACE}"
# The metrics that Shah 2017 published for each row.
ORIGINAL = ("original_nmi", "original_f1", "recall@1", "recall@8")
MAIN = {"nmi": "NMI", "f1": "F1", "recall@1": "R@1"}
LIKE = {"original_nmi": "NMI ¹", "original_f1": "accuracy ¹", "recall@1": "R@1", "recall@8": "R@8"}
ORIGINAL_NOTE = (
    "¹ K-means started from true labels, and clusters are named by their majority class, as Shah 2017 did."
)
LIKE_NOTE = f"{ORIGINAL_NOTE} Each pair is ours, then his (Inception v3)."
POSTER = ("validation NMI", "validation accuracy", "test NMI ¹", "test accuracy ¹")
POSTER_NOTE = (
    "Split of the poster: 80 classes to train on, 40 to validate, 80 to test; the network that is tested learned from "
    "120. Our validation K-means sees no label, his did."
)


def begun(folder: Path) -> bool:
    """Whether a row's folder for a seed holds a run or its results."""
    return (folder / "config.json").exists() or (folder / MEASURED).exists()


def runs(workdir: Path, row: Row) -> list[tuple[int, Path]]:
    """Seeds of a row that were started, and their folders; folders with other names, such as copies, are ignored."""
    folders = [path for path in (workdir / row.name).glob("*") if begun(path)]
    return sorted((int(path.name), path) for path in folders if re.fullmatch("0|[1-9][0-9]*", path.name))


def write(workdir: Path, rows: Sequence[Row]) -> list[Line]:
    """Write results.json and table.md of the finished rows into the folder, and return the lines of results.json."""
    lines = [line for row in rows for line in collect(row, workdir)]
    write_atomically(workdir / "results.json", json.dumps(lines, indent=1) + "\n")
    tables = [markdown(lines), like_for_like(lines), poster_markdown(lines), commands(lines)]
    write_atomically(workdir / "table.md", "\n".join(tables))
    return lines


def write_page(workdir: Path, lines: Sequence[Line]) -> None:
    """Write results.html and figures/ of these lines."""
    drawn = plots.draw(workdir, lines)
    (workdir / "figures").mkdir(exist_ok=True)
    for name, figure in drawn.items():
        figure.savefig(workdir / "figures" / f"{name}.png", dpi=80)
    text = html_page(lines, {name: figures.svg(figure) for name, figure in drawn.items()})
    write_atomically(workdir / "results.html", text)


def collect(row: Row, workdir: Path) -> list[Line]:
    """A line of results for each number of clusters of a row, over its finished seeds; no line if no seed is finished.

    Raises:
        ValueError: a record is damaged; names it.
    """
    remedy = "delete it, and the row is scored again"
    paths = [folder / MEASURED for _, folder in runs(workdir, row)]
    paths = [path for path in paths if path.exists()]
    found = [records.read(path, remedy) for path in paths]
    names = row.original or ("",) * len(row.clusters)
    return [
        {
            "row": row.name,
            "section": row.section,
            "title": row.title,
            "clusters": k,
            "seeds": [run["seed"] for run in found],
            "step": [run["step"].get(str(k)) for run in found],
            "val": [run["val"].get(str(k)) for run in found],
            **over_seeds([run["test"][str(k)] for run in found]),
            "loss": plots.stability(paths[0].parent),
            "minutes": round(float(np.mean([run["seconds"] for run in found])) / 60, 1),
            "cpu_minutes": round(float(np.mean([run["cpu_seconds"] for run in found])) / 60, 1),
            "original": dict(zip(ORIGINAL, PUBLISHED[original], strict=True)) if original else None,
            "field": row.field,
            "budget": found[0]["budget"],
            "command": f"python -m experiments.paper.reproduce --only {row.name} --budget {found[0]['budget']}",
            "train": train_options(PRESET, changes(row, found[0]["budget"])) if not row.features else "",
            "where": found[0]["where"],
        }
        for k, original in zip(row.clusters, names, strict=True)
        if found
    ]


def over_seeds(tests: Sequence[dict[str, float]]) -> Line:
    """Mean and standard deviation of each metric over training seeds, or over K-means seeds if there is one run."""
    found = {}
    for name in tests[0]:
        if not name.endswith("_std"):
            values = [test[name] for test in tests]
            std = float(np.std(values, ddof=1)) if len(values) > 1 else tests[0].get(f"{name}_std")
            found[name] = {"mean": float(np.mean(values)), "std": std}
    return {"metrics": found, "std_over": "training seeds" if len(tests) > 1 else "K-means seeds"}


def number(line: Line, name: str) -> str:
    """A metric with three decimals, and its standard deviation if it has one."""
    found = line["metrics"][name]
    deviation = "" if found["std"] is None else f"{SPACE}±{SPACE}{found['std']:.3f}"
    return f"{found['mean']:.3f}{deviation}"


def validation(line: Line, name: str) -> str:
    """A metric of the validation classes at the chosen step, averaged over seeds; a dash without validation."""
    found = [val[name] for val in line["val"] if val]
    return f"{np.mean(found):.3f}" if found else page.DASH


def markdown(lines: Sequence[Line]) -> str:
    """One table of all sections, with headings as lines in bold; clusters per class are shown if they vary."""
    several = len({line["clusters"] for line in lines}) > 1
    head = ["", *(["clusters"] if several else []), *MAIN.values(), "published by others", "CPU min"]
    text = f"| {' | '.join(head)} |\n{'|---' * len(head)}|\n"
    for section in dict.fromkeys(line["section"] for line in lines):
        text += f"| **{section}** {'|' * len(head)}\n"
        for line in lines:
            if line["section"] == section:
                cells = [line["title"], *([str(line["clusters"])] if several else [])]
                cells += [*(number(line, name) for name in MAIN), line["field"], f"{line['cpu_minutes']:.1f}"]
                text += f"| {' | '.join(cells)} |\n"
    return text


def like_for_like(lines: Sequence[Line]) -> str:
    """Our results beside those that Shah 2017 published, both by his metrics."""
    text = f"| | clusters | {' | '.join(LIKE.values())} |\n{'|---' * 6}|\n"
    for line in lines:
        if line["original"]:
            text += f"| {line['title']} | {line['clusters']} | {' | '.join(_pairs(line))} |\n"
    return f"{text}\n{LIKE_NOTE}\n"


def _pairs(line: Line) -> list[str]:
    return [f"{line['metrics'][name]['mean']:.3f} / {line['original'][name]:.3f}" for name in LIKE]


def poster(lines: Sequence[Line]) -> list[tuple[str, list[str]]]:
    """Rows of the poster's split: validation by the run that validates, test by the one trained on both parts."""
    found = {line["row"]: line for line in lines}
    rows = []
    for name, line in found.items():
        if final := found.get(f"{name}_final"):
            test = [f"{final['metrics'][metric]['mean']:.3f}" for metric in ("original_nmi", "original_f1")]
            title = line["title"].split(",")[0]
            rows.append((title, [validation(line, "nmi"), validation(line, "purity"), *test]))
    return [*rows, ("Shah 2017", ["0.54", "0.39", "0.35", "0.18"])] if rows else []


def poster_markdown(lines: Sequence[Line]) -> str:
    """The table of `poster` as Markdown, with its note."""
    rows = "".join(f"| {name} | {' | '.join(cells)} |\n" for name, cells in poster(lines))
    return f"| | {' | '.join(POSTER)} |\n{'|---' * 5}|\n{rows}\n{POSTER_NOTE}\n" if rows else ""


def both_ways(lines: Sequence[Line]) -> str:
    """Test scores on the poster's split, counted without labels and as Shah 2017 did, beside his."""
    columns = {**MAIN, "original_nmi": "NMI ¹", "original_f1": "accuracy ¹"}
    text = f"| | {' | '.join(columns.values())} |\n{'|---' * (1 + len(columns))}|\n"
    for line in lines:
        text += f"| {line['title']} | {' | '.join(number(line, name) for name in columns)} |\n"
    return f"{text}| Shah 2017 | {' | '.join([page.DASH] * len(MAIN))} | 0.35 | 0.18 |\n\n{ORIGINAL_NOTE}\n"


def commands(lines: Sequence[Line]) -> str:
    """The commands that run each row again."""
    text = "| row | run again | options of train.py | minutes |\n|---|---|---|---|\n"
    for line in {line["row"]: line for line in lines}.values():
        text += f"| {line['title']} | `{line['command']}` | `{line['train'] or page.DASH}` | {line['minutes']:.1f} |\n"
    return text


FIGURES = {
    "losses": (
        "Loss against step",
        "One formula (hinge, margin 0.2) and one budget; the band is the running standard deviation about the trend, a "
        "running mean over 21 steps.",
    ),
    "neighbours": ("Nearest pictures against K", "Test classes."),
    "classes": ("Four test classes", "The first two principal components of their embeddings."),
}


def html_page(lines: Sequence[Line], drawn: dict[str, Markup]) -> str:
    """The page of all tables and figures (SVG by name)."""
    columns = ["clusters", "NMI", "F1 (pairs)", "R@1", "R@8", "NMI, val.", "loss std", "min (CPU)"]
    cells: dict[str, list[tuple[str, list[str]]]] = {line["section"]: [] for line in lines}
    for line in lines:
        numbers = [
            str(line["clusters"]),
            *(number(line, name) for name in ("nmi", "f1", "recall@1", "recall@8")),
            validation(line, "nmi"),
            f"{line['loss']['detrended_std']:.4f}" if line["loss"] else page.DASH,
            f"{line['minutes']:.1f} ({line['cpu_minutes']:.1f})",
        ]
        cells[line["section"]].append((line["title"], numbers))
    pairs = [(f"{line['title']}, {line['clusters']}", _pairs(line)) for line in lines if line["original"]]
    return page.render(
        Path(__file__).with_name("results.html"),
        title="The original's experiments",
        sections=[(section, columns, rows) for section, rows in cells.items()],
        like=(list(LIKE.values()), pairs),
        like_note=LIKE_NOTE,
        poster=(POSTER, poster(lines)),
        poster_note=POSTER_NOTE,
        published=[(line["title"], [line["field"]]) for line in lines if line["field"]],
        figures=[(*FIGURES[name], svg) for name, svg in drawn.items()],
        where=lines[0]["where"] if lines else "",
        commands=[
            (line["title"], line["command"]) for line in {line["row"]: line for line in lines}.values()
        ],
    )
