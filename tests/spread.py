"""Matrices of tests of which `make test` runs a part, and `make test-slow` the rest."""

import pytest


def spread(rows, columns=None, *, of=None, turn=0, label=str):
    """Each row with each column, or rows alone, as parameters of a test; all but one in `of`, by diagonals, are slow.

    With columns, `of` may be at most their number and that of the rows, which it is by default the smaller of, so that
    `make test` runs every row with some column and every column with some row. The diagonals move on after every `of`
    rows, lest rows that come in groups of as many always meet the same columns; `turn` moves them too, so that tests of
    the same rows need not leave out the same ones.
    """
    rows = list(rows)
    alone, columns = columns is None, [None] if columns is None else list(columns)
    if not alone:
        of = of or min(len(rows), len(columns))
        assert of <= min(len(rows), len(columns)), "something would be left to slow tests alone"
    return [
        pytest.param(
            *([row] if alone else [row, column]),
            id=label(row) if alone else f"{label(row)}-{column}",
            marks=[] if (i + i // of + j + turn) % of == 0 else [pytest.mark.slow],
        )
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]
