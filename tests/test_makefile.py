"""What `make` runs and removes, with a stand-in for Python."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


@pytest.fixture
def checkout(tmp_path):
    """The Makefile beside a run, and a virtual environment whose Python records its arguments."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$@" >> asked\n')
    python.chmod(0o755)
    (tmp_path / ".venv/.base").touch()
    return tmp_path


def make(checkout, target):
    subprocess.run(["make", target], cwd=checkout, check=True, capture_output=True)


def test_clean_keeps_results(checkout):
    kept = [
        "runs/mine/checkpoints/1",
        "runs/quickstart/report.html",
        "benchmarks/summary.md",
        "stress/stress.md",
    ]
    for name in (*kept, "build/lib/a.py", "jaxml.egg-info/PKG-INFO"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    make(checkout, "clean")
    left = {path.relative_to(checkout).as_posix() for path in checkout.rglob("*") if path.is_file()}
    assert left == {*kept, "Makefile", "pyproject.toml"}


def test_quickstart_goes_on_with_a_run_that_is_there(checkout):
    make(checkout, "quickstart")
    workdir = checkout / "runs/quickstart"
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text("{}")
    (workdir / "notes.txt").write_text("mine")
    make(checkout, "quickstart")
    assert (workdir / "notes.txt").read_text() == "mine"
    command = "-m jaxml train --preset glyphs_simple --workdir runs/quickstart"
    assert (checkout / "asked").read_text().splitlines() == [command, f"{command} --resume"]


def test_compilers_have_an_environment_of_their_own(checkout):
    """They are installed into it once, and its Python runs the tests."""
    shutil.copytree(checkout / ".venv", checkout / ".venv-compile")
    make(checkout, "test-compile")
    make(checkout, "test-compile")
    asked = [line.split(" --")[0] for line in (checkout / "asked").read_text().splitlines()]
    tests = "-m pytest tests/compile -m compile and not slow"
    assert asked == ["-m pip install", tests, tests]
    make(checkout, "clean")
    assert not (checkout / ".venv-compile").exists()
