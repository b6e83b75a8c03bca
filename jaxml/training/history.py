"""`metrics.jsonl`, the record of a run: one JSON object a line, one line for each logged step and validation."""

import json
from pathlib import Path

from jaxml.config.values import INT32
from jaxml.files import parse_json, write_atomically


class History:
    """Appends rows; rows past the step from which a run resumes are dropped, for they will come again."""

    def __init__(self, path: Path, keep_to: int):
        rows = [row for row in read(path) if row["step"] <= keep_to]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._path = path

    def write(self, row: dict[str, float]) -> None:
        """Append one row, named by its `step`."""
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def note_steps(path: Path, step: int, steps: int) -> None:
    """Note, as `train_steps`, that the schedule from `step` on is that of so many steps, and was another one."""
    row: dict[str, float] = {"step": step, "train_steps": steps}
    if row not in read(path):
        History(path, step).write(row)


def read(path: str | Path) -> list[dict[str, float]]:
    """All rows of a `metrics.jsonl`; a last line cut short by a crash is left out, a missing file has none.

    Raises:
        ValueError: another line is damaged; names it.
    """
    path, rows = Path(path), []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is damaged; mend it, or move the file away") from error
    return rows


def _row(line: bytes) -> dict[str, float]:
    row = parse_json(line, "it")
    if not isinstance(row, dict) or not all(type(value) in (int, float) for value in row.values()):
        raise ValueError("it is no table of numbers")
    if type(step := row.get("step")) is not int or not 0 <= step <= INT32:
        raise ValueError("it has no step")
    return row
