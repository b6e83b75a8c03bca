"""`jaxml train` end to end: from any folder, with nobody reading, without test classes, with few images of a class."""

import importlib
import os
import subprocess
import sys

import pytest

from jaxml import config as configs
from tests.commands.test_mistakes import ROOT, places, sound  # noqa: F401
from tests.training.test_run import pictures  # noqa: F401


def test_a_run_goes_on_when_nobody_reads_what_it_says(places):  # noqa: F811
    """As with `jaxml train | head -0`."""
    workdir = places["here"] / "run"
    command = [sys.executable, "-m", "jaxml", "train", *sound(places), "--workdir", str(workdir)]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "XLA_FLAGS": ""}, stdout=write, stderr=write, check=False
    )
    os.close(write)
    assert done.returncode == 0
    assert (workdir / "report.html").exists()


def test_paths_are_kept_whole(places, monkeypatch):  # noqa: F811
    """So that the run can be scored from another folder."""
    monkeypatch.chdir(places["pictures"].parent)
    words = [word.replace(str(places["pictures"]), places["pictures"].name) for word in sound(places)]
    workdir = places["here"] / "run"
    importlib.import_module("jaxml.commands.train").main([*words, "--workdir", str(workdir)])
    assert configs.load(workdir / "config.json").data.root == str(places["pictures"])
    monkeypatch.chdir(places["here"])
    importlib.import_module("jaxml.commands.evaluate").main(["--workdir", "run"])


@pytest.mark.parametrize(
    ("words", "part", "classes"),
    [("--data.split 0-4/5-9", "val", 5), ("--data.split 0-4/5-9 --data.train_on train+val", "train+val", 10)],
)
def test_without_test_classes_the_report_is_of_what_there_is(words, part, classes, places, capsys):  # noqa: F811
    workdir = places["here"] / "run"
    importlib.import_module("jaxml.commands.train").main(
        [*sound(places), "--workdir", str(workdir), *words.split()]
    )
    said = capsys.readouterr().out
    meaning = {"val": "validation classes", "train+val": "classes that it was trained on"}[part]
    assert f"clusters of {meaning}, network of step 2" in said
    page = (workdir / "report.html").read_text()
    assert f"clusters of {meaning}" in page
    assert f"{8 * classes} images of {classes} {part} classes" in page


def test_few_images_of_a_class_are_warned_of(places):  # noqa: F811
    words = [*sound(places), "--data.images_per_class", "9", "--workdir", str(places["here"] / "run")]
    expected = r"5 of 5 classes to train on have fewer images than --data.images_per_class \(9\), such as class0 with 8"
    with pytest.warns(UserWarning, match=expected):
        importlib.import_module("jaxml.commands.train").main(words)
