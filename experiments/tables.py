"""What `reproduce.py` measured, as results.json, a Markdown table and a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row

from jaxml.report import PUBLISHED

ORIGINAL = ("original_nmi", "original_f1", "recall@1", "recall@8")  # what Shah 2017 published of a row


def write(workdir: Path, rows: Sequence[Row], budget: str) -> None:
    """Write results.json and table.md of the finished rows into the folder."""
    lines = [line for row in rows for line in collect(row, workdir / row.name, budget)]
    (workdir / "results.json").write_text(json.dumps(lines, indent=1) + "\n")
    (workdir / "table.md").write_text(markdown(lines))


def collect(row: Row, folder: Path, budget: str) -> list[dict[str, Any]]:
    """A line for each number of clusters of a row, over the seeds that are finished; none where none is."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*/measured.json"))]
    return [_line(row, runs, k, original, budget) for k, original in _lines(row) if runs]


def _lines(row: Row) -> list[tuple[int, str]]:
    names = row.original or ("",) * len(row.clusters)
    return list(zip(row.clusters, names, strict=True))


def _line(row: Row, runs: list[dict[str, Any]], k: int, original: str, budget: str) -> dict[str, Any]:
    tests = [run["test"][str(k)] for run in runs]
    metrics = {}
    for name in tests[0]:
        if not name.endswith("_std"):
            values = [test[name] for test in tests]
            over_seeds = float(np.std(values, ddof=1)) if len(values) > 1 else tests[0].get(f"{name}_std")
            metrics[name] = {"mean": float(np.mean(values)), "std": over_seeds}
    return {
        "row": row.name,
        "section": row.section,
        "title": row.title,
        "clusters": k,
        "seeds": [run["seed"] for run in runs],
        "std_over": "training seeds" if len(runs) > 1 else "K-means seeds",
        "step": [run["step"].get(str(k)) for run in runs],
        "val": [run["val"].get(str(k)) for run in runs],
        "metrics": metrics,
        "minutes": round(float(np.mean([run["seconds"] for run in runs])) / 60, 1),
        "cpu_minutes": round(float(np.mean([run["cpu_seconds"] for run in runs])) / 60, 1),
        "original": dict(zip(ORIGINAL, PUBLISHED[original], strict=True)) if original else None,
        "field": row.field,
        "command": f"python experiments/reproduce.py --only {row.name} --budget {budget}",
        "train": " ".join(("python experiments/train.py", *runs[0]["words"])) if not row.features else "",
        "where": runs[0]["where"],
    }


def markdown(lines: Sequence[dict[str, Any]]) -> str:
    """All lines, a table for each section."""
    columns = ("NMI", "F1", "R@1", "min", "CPU min")
    text = ""
    for section in dict.fromkeys(line["section"] for line in lines):
        text += f"\n**{section}**\n\n| row | clusters | {' | '.join(columns)} |\n{'|---' * 7}|\n"
        for line in lines:
            if line["section"] == section:
                cells = [number(line, name) for name in ("nmi", "f1", "recall@1")]
                cells += [f"{line['minutes']:.1f}", f"{line['cpu_minutes']:.1f}"]
                text += f"| {line['title']} | {line['clusters']} | {' | '.join(cells)} |\n"
    return text.lstrip()


def number(line: dict[str, Any], name: str) -> str:
    """A metric to three digits, with its deviation where there is one."""
    found = line["metrics"][name]
    return f"{found['mean']:.3f}" + (f" ± {found['std']:.3f}" if found["std"] is not None else "")
