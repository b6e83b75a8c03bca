"""The table of accounts itself, which needs no compiler."""

from tests.compile import table

KEY = ("v5e", "a kernel")
KNOWN = dict.fromkeys(table.NUMBERS, 100) | {"gathers_in_loops": 0}


def test_a_tenth_more_is_allowed():
    assert table.regressions(KEY, KNOWN | {"hbm_bytes": 110, "temp_bytes": 1}, KNOWN) == []


def test_what_is_dearer_is_named_with_its_numbers():
    found = KNOWN | {"hbm_bytes": 1234, "gathers_in_loops": 1}
    assert table.regressions(KEY, found, KNOWN) == [
        "a kernel on v5e: hbm_bytes 1,234, was 100, 1134 % more",
        "a kernel on v5e: gathers_in_loops 1, was 0",
    ]


def test_the_table_reads_as_it_was_written(tmp_path):
    rows = {("v5e:2x2", "b, c"): KNOWN, KEY: KNOWN | {"operations": 7}}
    table.write(rows, tmp_path / "t.csv")
    assert table.read(tmp_path / "t.csv") == rows
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == "v5e,a kernel,100,7,100,0,100,100,100"
