"""Tables in files: the cells of some columns as text, from CSV or Parquet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxml.arguments import shown
from jaxml.files import expand, printable

TEXT, LABEL, NUMBER, FLAG = "text", "text or whole numbers", "numbers", "true or false"
"""What a column can hold."""


@dataclass(frozen=True)
class Table:
    """The cells of R rows, as far as they are used."""

    path: Path
    cells: dict[str, list[str]]
    """By column, R texts; "" for a cell without a value."""
    rows: Sequence[int]
    """R numbers of rows, as a spreadsheet counts them: the header is row 1."""

    def place(self, i: int, column: str) -> str:
        """Where a cell is."""
        return f"{printable(self.path.name)}, row {self.rows[i]}, column {column}"

    def error(self, i: int, column: str, problem: str) -> ValueError:
        """An error that names a cell."""
        return ValueError(f"{self.place(i, column)}: {problem}")


def read(root: str, kinds: Mapping[str, str]) -> Table:
    """Read those of some columns that the table in the file `root` has.

    Args:
        root: path of a .csv or .parquet file.
        kinds: what each column can hold, TEXT, LABEL, NUMBER or FLAG. In CSV everything is text.

    Raises:
        ValueError: there is no such file, it is no table, or a column is there twice or of another type.
    """
    path = expand(root, "--data.root")
    if path.suffix.lower() not in READERS or not path.is_file():
        raise ValueError(
            f"--data.root {root!r} is not a file of a table; give one whose name ends in {' or '.join(READERS)}"
        )
    try:
        table = READERS[path.suffix.lower()](path, kinds)
    except OSError as error:
        raise ValueError(f"{printable(path)} cannot be read ({error.strerror or error})") from None
    if not table.rows:
        raise ValueError(f"{printable(path)} has no rows; below the header write one for each image")
    return table


def _check_header(path: Path, header: Sequence[str], kinds: Mapping[str, str]) -> list[str]:
    """The columns of a header that are used, each of which may be there once."""
    for name in header:
        if header.count(name) > 1 and name in kinds:
            raise ValueError(
                f"{printable(path)} has {header.count(name)} columns {name} (row 1); remove all but one"
            )
    found = [name for name in kinds if name in header]
    if not found:
        there = ", ".join(map(shown, header[:20])) or "nothing"
        raise ValueError(
            f"{printable(path)}, row 1: none of the columns {', '.join(kinds)} is there, but {there}; the first row "
            f"must name the columns, and the file must be UTF-8, with commas between the cells"
        )
    return found


def _csv(path: Path, kinds: Mapping[str, str]) -> Table:
    # Excel begins with a byte order mark. Bytes that are not UTF-8 are refused where a column is used.
    lines = io.StringIO(path.read_bytes().decode("utf-8-sig", "surrogateescape"), newline="")
    records = _records(path, csv.reader(lines, strict=True))
    _, header = next(records, (1, []))
    found = {name: header.index(name) for name in _check_header(path, header, kinds)}
    rows, kept = [], []
    for number, record in records:
        if not any(record):  # spreadsheets leave empty rows at the end
            continue
        if len(record) != len(header):
            raise ValueError(
                f"{printable(path)}, row {number}: there are {len(record)} cells, but {len(header)} columns in row 1; "
                f"put a cell that holds a comma into quotation marks"
            )
        rows.append(number)
        kept.append([record[at] for at in found.values()])
    cells = {name: [record[at] for record in kept] for at, name in enumerate(found)}
    table = Table(path, cells, rows)
    for name in found:
        _check_utf8(table, name)
    return table


def _records(path: Path, reader: Iterable[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each row of a CSV file."""
    number = 0
    try:
        for number, record in enumerate(reader, 1):
            yield number, record
    except csv.Error as error:
        raise ValueError(
            f"{printable(path)}, row {number + 1}: this is no CSV ({error}); save the table anew as CSV"
        ) from None


def _check_utf8(table: Table, column: str) -> None:
    for i, cell in enumerate(table.cells[column]):
        try:
            cell.encode()
        except UnicodeEncodeError:
            raise table.error(
                i, column, f"{shown(cell)} is not UTF-8; save the table in that encoding"
            ) from None


def _parquet(path: Path, kinds: Mapping[str, str]) -> Table:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ValueError(
            f"{printable(path)} is read by pyarrow, which is not installed: `pip install jaxml[parquet]`, or save the "
            f"table as CSV"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            found = _check_header(path, file.schema_arrow.names, kinds)
            columns = file.read(columns=found)
    except pa.ArrowException as error:
        raise ValueError(
            f"{printable(path)} is no Parquet file ({' '.join(str(error).split())}); save the table anew"
        ) from None
    for name in found:
        _check_type(path, name, columns.schema.field(name).type, kinds[name])
    table = Table(path, {}, range(2, columns.num_rows + 2))
    for name in found:
        table.cells[name] = _texts(table, name, columns.column(name))
    return table


def _check_type(path: Path, column: str, kind: Any, wanted: str) -> None:
    """ValueError unless a column of this Arrow type can hold what is wanted; one without any value can hold all."""
    from pyarrow import types

    text = (types.is_string, types.is_large_string, types.is_string_view)
    allowed: dict[str, tuple[Callable[[Any], bool], ...]] = {
        TEXT: text,
        LABEL: (*text, types.is_integer),
        NUMBER: (types.is_integer, types.is_floating),
        FLAG: (types.is_boolean, types.is_integer),
    }
    value = kind.value_type if types.is_dictionary(kind) else kind
    if not types.is_null(value) and not any(of(value) for of in allowed[wanted]):
        raise ValueError(
            f"{printable(path)}, column {column}: it is of the type {kind}, but must hold {wanted}; convert it"
        )


def _texts(table: Table, column: str, values: Any) -> list[str]:
    """The values of a Parquet column as a CSV file would have them."""
    texts = []
    for i, scalar in enumerate(values):
        try:
            value = scalar.as_py()
        except UnicodeDecodeError:
            raise table.error(i, column, "the text is not UTF-8; save the table in that encoding") from None
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        texts.append("" if missing else str(value))
    return texts


READERS: dict[str, Callable[[Path, Mapping[str, str]], Table]] = {".csv": _csv, ".parquet": _parquet}
"""By the ending of a file's name."""
