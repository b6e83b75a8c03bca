"""The quick form of every check of experiments/stress/__main__.py, and mistakes on the command line of the scripts."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from experiments.stress import parsers
from jaxml import config
from jaxml.commands import VERBS, process
from jaxml.commands.train import parse_train

# Those that are slow take minutes; tests/training has parts of them, such as the lock of a directory.
INTERRUPTED = ("interrupted",)
STOPPED = ("killed", "signals")
HURT = ("disk_full", "devices", "numbers", "memory")
FILES = ("checkpoints", "images", "weights", "archives")
TOGETHER = ("concurrent", "readers", "other_user")
PICTURES = ("pictures",)


@pytest.mark.parametrize(
    "checks",
    [
        INTERRUPTED,
        pytest.param(STOPPED, marks=pytest.mark.slow),
        pytest.param(HURT, marks=pytest.mark.slow),
        FILES,
        pytest.param(TOGETHER, marks=pytest.mark.slow),
        PICTURES,
    ],
    ids=["interrupted", "stopped", "hurt", "files", "together", "pictures"],
)
def test_stress(checks, tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments.stress",
        "--quick",
        "--out",
        str(tmp_path),
        "--only",
        *checks,
    ]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    outcomes = json.loads((tmp_path / "stress.json").read_text())
    assert set(outcomes) == set(checks)
    for name, outcome in outcomes.items():
        assert outcome["figures"], name
        # A full disk needs the right to mount one, archives need tensorflow, and another user needs root.
        may_not_run = name in ("disk_full", "archives", "other_user")
        assert outcome["passed"] is True or (outcome["passed"] is None and may_not_run), outcome
    assert (tmp_path / "stress.md").read_text().count("\n") == 2 + len(checks)


@pytest.mark.parametrize("name", ["config", "metrics", "triplets"])
def test_damaged_files_of_a_run_are_refused_by_name(name):
    refused, wrong = parsers.fuzz_one(name, 2000, 5)
    assert not wrong
    assert refused > 1500


def run(main, words, monkeypatch, capsys):
    """Exit code and output of a script."""
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    with pytest.raises(SystemExit) as stopped:
        process.command(main)
    printed = capsys.readouterr()
    code = stopped.value.code
    return (1, code) if isinstance(code, str) else (code, printed.out + printed.err)


def wrong_options():
    """For each option of a run, a value that it cannot have."""
    for name, schema in config.options().items():
        if schema["type"] in ("integer", "number") or "enum" in schema:
            yield name, "nonsense"
        if schema.get("minimum", -1) >= 0 or "exclusiveMinimum" in schema:
            yield name, "-1"
        if schema["type"] == "boolean":
            yield name, "maybe"
        if schema["type"] == "number":
            yield name, "nan"


@pytest.mark.parametrize(("name", "word"), list(wrong_options()))
def test_a_wrong_option_of_a_run_is_named(name, word, monkeypatch, capsys):
    code, said = run(parse_train, [f"--{name}", word], monkeypatch, capsys)
    assert code in (1, 2)
    assert name in said or f"Unrecognized options: {word}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "script",
    [*(module for _, module in VERBS.values()), "experiments.paper.reproduce", "experiments.stress.__main__"],
)
def test_an_unknown_option_of_a_script_is_named(script, monkeypatch, capsys):
    main = importlib.import_module(script).main
    code, said = run(main, ["--nonsense", "3"], monkeypatch, capsys)
    assert code == 2
    assert "--nonsense" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("script", "words", "named"),
    [
        ("jaxml.commands.train", ["--workdir", "{}/none", "--resume"], "none holds no run to resume"),
        ("jaxml.commands.evaluate", ["--workdir", "{}/none"], "none holds no run"),
        (
            "jaxml.commands.cluster",
            ["--workdir", "{}/none", "--images", "{}/nowhere"],
            "nowhere is not a folder",
        ),
        (
            "experiments.stress.__main__",
            ["--only", "nothing"],
            "--only nothing: unknown; the checks are killed",
        ),
    ],
)
def test_mistakes_end_in_one_line(script, words, named, tmp_path, monkeypatch, capsys):
    main = importlib.import_module(script).main
    code, said = run(main, [word.format(tmp_path) for word in words], monkeypatch, capsys)
    assert code == 1
    assert named in said
    assert len(said.strip().splitlines()) == 1
