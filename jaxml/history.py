"""`metrics.jsonl`, the record of a run: one JSON object a line, one line for each logged step and validation."""

import json
from pathlib import Path


class History:
    """Appends rows; rows past the step from which a run resumes are dropped, for they will come again."""

    def __init__(self, path: Path, keep_to: int):
        rows = [row for row in read(path) if row["step"] <= keep_to]
        kept = path.with_suffix(".tmp")
        kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
        kept.replace(path)
        self._path = path

    def write(self, row: dict[str, float]) -> None:
        """Append one row, named by its `step`."""
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read(path: str | Path) -> list[dict[str, float]]:
    """All rows of a `metrics.jsonl`; a last line cut short by a crash is left out, a missing file has none."""
    path, rows = Path(path), []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
