"""What the benchmarks share: timing in alternation, ratios, tables, and a check of the kernels that can fail."""

import json
import time

import numpy as np
import pytest

from experiments.benchmarks import __main__ as benchmark
from experiments.benchmarks import kernels, notes, timing
from jaxml import losses
from jaxml.losses.kernels import mining


def test_programs_meet_the_same_disturbances():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = timing.in_turn(runs, limit=0.0, least=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


def test_ratio_is_taken_within_each_round():
    # One disturbed round among four of very different speed; the ratio of medians would say 5.
    times = {"fast": [1.0, 10.0, 2.0, 20.0], "slow": [1000.0, 20.0, 4.0, 40.0]}
    assert timing.ratio(times, "fast", "slow") == 2


def test_rows_of_calls_leave_out_what_was_read_ahead():
    ready = [0.0] * 20

    def read():
        time.sleep(ready.pop() if ready else 0.01)

    (first, second) = timing.alternating({"read": read}, limit=0.4)["read"]
    assert first > 0.009
    assert second > 0.009


def test_table_and_file_have_every_column(tmp_path, capsys):
    rows = [{"a": 1, "b": 2}, {"a": 3, "c": 4}]
    text = timing.table(rows)
    assert text.splitlines() == ["| a | b | c |", "|---|---|---|", "| 1 | 2 | |", "| 3 | | 4 |"]
    timing.write(tmp_path, "x", rows, text)
    found = json.loads((tmp_path / "x.json").read_text())
    assert (found["columns"], found["rows"]) == (["a", "b", "c"], [[1, 2, ""], [3, "", 4]])
    assert "jax" in found["about"]
    assert "jax" in (tmp_path / "x.md").read_text()


def test_the_notes_hold_what_the_files_of_measurements_do():
    text = notes.NOTES.read_text(encoding="utf-8")
    assert notes.inserted(text) == text, "run python -m experiments.benchmarks.notes"
    written = [found[1] for found in notes.MARKED.finditer(text)]
    assert sorted(written) == sorted(path.name for path in notes.FOLDER.iterdir())


def test_what_stands_between_the_markers_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(notes, "FOLDER", tmp_path)
    timing.write(tmp_path, "x", [{"a": 1, "b": None}], "")
    text = "before\n<!-- x.json -->\nold\n<!-- end -->\nafter <!-- y -->\n"
    head, table = notes.inserted(text).split("\n\n")
    assert head.startswith("before\n<!-- x.json -->\nMeasured on ")
    assert table == "| a | b |\n|---|---|\n| 1 | None |\n<!-- end -->\nafter <!-- y -->\n"


def test_a_summary_replaces_that_of_an_earlier_call_and_no_other_file(tmp_path, monkeypatch):
    def run(name, options, out, limit):
        (out / f"{name}.log").write_text(f"{name} says\n")
        return "ok", 1.0

    monkeypatch.setattr(benchmark, "run", run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mining.py").write_text("years of work")
    with pytest.raises(ValueError, match=r"--out .*mine holds files that are not results"):
        benchmark.main(["--out", str(tmp_path / "mine")])
    assert (tmp_path / "mine/mining.py").read_text() == "years of work"
    benchmark.main(["--out", str(tmp_path / "out")])
    (tmp_path / "out/mining_notes.md").write_text("years of work")
    benchmark.main(["--out", str(tmp_path / "out")])
    assert (tmp_path / "out/mining_notes.md").read_text() == "years of work"
    assert "kernels says" in (tmp_path / "out/summary.md").read_text()


def test_peak_of_memory_is_that_since_the_last_reset():
    np.ones(100 * 2**20, np.uint8).sum()
    before = timing.reset_peak()
    if before is None:
        pytest.skip("the system tells no peak")
    assert timing.memory("VmHWM") - before < 20
    np.ones(60 * 2**20, np.uint8).sum()
    assert 55 < timing.memory("VmHWM") - before < 90


def test_every_kernel_is_checked():
    assert {name for name, _ in kernels.CASES} == set(losses.LOSSES)
    assert {options.get("mining") for _, options in kernels.CASES} >= set(mining.MINING)


def test_check_notices_an_error(monkeypatch):
    assert kernels.difference("contrastive", {}) < 1e-5
    right = losses.LOSSES["contrastive"]

    def wrong(*args, **options):
        value, aux = right(*args, **options)
        return 1.001 * value, aux

    monkeypatch.setitem(losses.LOSSES, "contrastive", wrong)
    assert kernels.difference("contrastive", {}) > 5e-4
    assert kernels.near_duplicates() < 1e-2
