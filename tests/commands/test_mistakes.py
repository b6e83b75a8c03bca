"""Mistakes on the command line: one line that names the option as it was typed, and nothing in the way later."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxml import config as configs
from jaxml.commands import VERBS, process
from jaxml.commands.train import parse_train
from jaxml.training.lock import locked
from tests.training.test_run import config, pictures, untrained  # noqa: F401

ROOT = Path(__file__).parents[2]


def called(verb, words, monkeypatch, capsys):
    """Exit code and what the command has said."""
    monkeypatch.setattr(sys, "argv", [f"jaxml {verb}", *words])
    with pytest.raises(SystemExit) as stopped:
        process.command(importlib.import_module(VERBS[verb][1]).main)
    said = "".join(capsys.readouterr())
    code = stopped.value.code
    return (1, said + code) if isinstance(code, str) else (code, said)


@pytest.fixture
def places(pictures, tmp_path):  # noqa: F811
    """Paths that words name in braces: pictures, files and folders that are not what they should be."""
    for name in ("empty", "hollow/a", "hollow/b", "damaged/a", "damaged/b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "text.yaml").write_text("train: {")
    (tmp_path / "options.yml").write_text("train:\n  steps: many\n")
    (tmp_path / "options.json").write_text('{"train": {"stepz": 3}}')
    save_file({"features.0.weight": np.zeros((2, 2), np.float32)}, tmp_path / "other.safetensors")
    picture = (pictures / "class0/0.png").read_bytes()
    (tmp_path / "hollow/a/0.png").write_bytes(picture)
    (tmp_path / "damaged/a/0.png").write_bytes(picture)
    (tmp_path / "damaged/b/torn.png").write_bytes(picture[: len(picture) // 2])
    return {"pictures": pictures, "here": tmp_path}


def sound(places):
    """Words after which a run of two steps is trained."""
    return (
        f"--data.source folder --data.root {places['pictures']} --data.split 0-4/5-6/7-9 --data.stored_size 24 "
        f"--data.size 20 --data.classes_per_batch 4 --data.images_per_class 2 --data.cache {places['here']}/cache "
        f"--model.feature_size 8 --train.steps 2 --train.devices 1 --eval.batch_size 16 --eval.kmeans_seeds 1"
    ).split()


# The words of a mistake, and what the error says: the option, then what to do.
PARSED = {
    "--train.steps 0": "--train.steps is 0; it must be at least 1",
    "--data.crop_area 0.9 0.5": "--data.crop_area is .*; it must be .* in ascending order",
    "--data.crop_area 0.5 1.5": "--data.crop_area has 1.5; it must be at most 1",
    "--eval.mirror False": "--eval.mirror takes no value; write it alone, or --eval.no_mirror, in place of False",
    "--data.crop-to-box=no": "--data.crop_to_box takes no value; write it alone, or --data.no_crop_to_box, in place",
    "--optim.learning_rate -1": "--optim.learning_rate is -1.0; it must be more than 0",
    "--optim.groups ( 0.1": "--optim.groups has .*; it must be a regular expression",
    "--train.steps 12 --train.steps_per_call 5": "--train.steps is 12; it must be a multiple of --train.steps_per_call",
    "--train.steps_per_call 2 --data.input tf_data": "--train.steps_per_call needs --data.input resident",
    "--train.patience 2 --data.train_on train+val": "--train.patience needs --data.train_on train: with train.val no",
    "--train.patience -1": "--train.patience is -1; it must be at least 0",
    "--train.mode input_triplets --loss.name lifted": "input_triplets needs --loss.name triplet",
    "--train.mode input_triplets": "--data.classes_per_batch x --data.images_per_class must be a multiple of 3",
    "--preset {here}/none.json": "none.json",
    "--preset {here}/text.json": "text.json is no JSON file",
    "--preset {here}/none.yaml": "none.yaml",
    "--preset {here}/text.yaml": "text.yaml is no YAML file: .*line 1, column",
    "--preset {here}/options.yml": "options.yml: --train.steps is 'many'; it must be a whole number of at least 1",
    "--preset {here}/options.json": "options.json: unknown configuration options 'train.stepz'; known: .*train.steps",
}
TRAIN = {
    **PARSED,
    "--loss.name tripletti": "--loss.name is 'tripletti'; it must be one of triplet, ",
    "--loss.options marginn 0.3": "--loss.options: triplet has no marginn; it takes .*margin",
    "--loss.options margin x": "--loss.options: margin must be a finite number, got 'x'",
    "--loss.options formula cubic": "--loss.options: formula .*hinge",
    "--loss.options mining none": "--loss.options: mining .*local",
    "--loss.name multi_similarity --loss.options alpha x": "--loss.options: alpha must be",
    "--model.backbone resnet51": "--model.backbone is 'resnet51'; it must be one of .*resnet50",
    "--model.weights {here}/none.safetensors": "none.safetensors",
    "--model.backbone squeezenet1_1 --data.size 48 --model.weights {here}/none.safetensors": "none.safetensors",
    "--model.backbone squeezenet1_1 --data.size 48 --model.weights {here}/text.safetensors": "text.safetensors",
    "--model.backbone squeezenet1_1 --data.size 48 --model.weights {here}/file": "file: weights are",
    "--model.backbone squeezenet1_1 --data.size 16": "--data.size is 16: .*too small for this backbone",
    "--model.backbone squeezenet1_1 --data.size 48 --eval.size 16": "--eval.size is 16: .*too small for this backbone",
    "--model.head classifier": "--model.head is classifier, but simple has no .*; give linear or none",
    "--model.head none": "--model.feature_size is 8; with --model.head none it must be ",
    "--model.pooling avg+max": "--model.backbone simple gives a vector, .* --model.pooling avg",
    "--eval.size 28": "--eval.size: simple takes images of one size only; leave it at 0",
    "--train.chunk 3": "--train.chunk is 3, which does not divide the 8 images of a device; give a number that does",
    "--train.chunk 4": "--train.chunk needs --model.batch_norm frozen",
    "--train.devices 99": "--train.devices is 99, but this machine has 4",
    "--train.devices 3": "the batch of 8 cannot be divided among 3 devices; set --train.devices to",
    "--data.source birds": "--data.source is 'birds'; it must be one of glyphs, cub, folder",
    "--data.root {here}/none": "--data.root '.*/none' is not a folder; give one that holds",
    "--data.root {here}/file": "--data.root '.*/file' is not a folder; give one that holds",
    "--data.root {here}/empty": "empty holds no folders; put the images of each class into a folder",
    "--data.root {here}/hollow": "hollow/b holds no images .*; add some or remove the folder",
    "--data.root {here}/damaged": "torn.png",
    "--data.split halves": "--data.split is 'halves'; it must be poster or standard, source for the one that",
    "--data.split 0-4/5-6/7-90": "--data.split 0-4/5-6/7-90 names class 90, but the data set has classes 0 to 9",
    "--data.split 0-4/4-6/7-9": "--data.split 0-4/4-6/7-9 puts classes .4. into two parts; ranges must not",
    "--data.split 4-0/5-6/7-9": "--data.split 4-0/5-6/7-9 leaves a part without classes .*ranges ascend",
    "--data.classes_per_batch 8": "--data.classes_per_batch is 8, but .* leaves 5 classes to train on; give at most 5",
    "--data.classes_per_batch 1": "--data.classes_per_batch is 1, but triplet compares .*; give 2 or more",
    "--data.images_per_class 1": "--data.images_per_class is 1, but triplet compares .*; give 2 or more",
    "--eval.clusters_per_class 9": "--eval.clusters_per_class is 9, .* have 16 images; give a smaller number",
    "--data.cache {here}/file/below": "file/below",
    "--distill.teacher {here}/none": "--distill.teacher must be .* a finished run: .*none holds no run: there is no",
    "--eval.feature_size 9": "--eval.feature_size is 9; it must be at most --model.feature_size, which is 8",
    "--resume": "holds no run to resume: there is no config.json; leave out --resume",
}


def check(said, named):
    """It is one line, which names the option."""
    assert len(said.strip().splitlines()) == 1, said
    assert said.startswith("error: ")
    assert re.search(named, said), said


@pytest.mark.parametrize("words", TRAIN)
def test_a_mistake_in_training(words, places, monkeypatch, capsys):
    workdir = places["here"] / "run"
    wrong = [*sound(places), "--workdir", str(workdir), *(word.format(**places) for word in words.split())]
    code, said = called("train", wrong, monkeypatch, capsys)
    assert code == 1
    check(said, TRAIN[words])
    assert not workdir.exists(), "a mistake has taken the directory"


def test_weights_that_do_not_fit_are_listed(places, monkeypatch, capsys):
    workdir = places["here"] / "run"
    wrong = (
        f"--model.backbone squeezenet1_1 --data.size 48 --model.weights {places['here']}/other.safetensors"
    )
    words = [*sound(places), *wrong.split(), "--workdir", str(workdir)]
    code, said = called("train", words, monkeypatch, capsys)
    assert code == 1
    assert "other.safetensors does not fit squeezenet1_1" in said.splitlines()[0]
    assert "misshapen: features.0.weight gives [2, 2]" in said
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("verb", "words", "named"),
    [
        ("train", "--train.steps many", "--train.steps"),
        ("train", "--data.rot x", "--data.rot"),
        ("train", "--preset none", "--preset none: give a JSON or YAML file, or one of glyphs_simple"),
        ("evaluate", "", "--workdir"),
        ("evaluate", "--workdir x --split all", "--split"),
        ("cluster", "--model x", "--images"),
        ("weights", "", "inspect"),
        ("weights", "copy x", "copy"),
    ],
)
def test_words_that_cannot_be_parsed_exit_with_two(verb, words, named, monkeypatch, capsys):
    code, said = called(verb, words.split(), monkeypatch, capsys)
    assert code == 2
    assert named in said
    assert "Traceback" not in said


OTHERS = {
    "evaluate --workdir {here}/none": "none holds no run: there is no config.json",
    "evaluate --workdir {here}/begun": "begun has no checkpoint yet",
    "evaluate --workdir {here}/run --data.root {here}/none": "--data.root '.*/none' is not a folder",
    "evaluate --workdir {here}/blind --split test": "--split test: there are no test classes in --data.split, only ",
    "report --workdir {here}/none": "none holds no run",
    "report --workdir {here}/run": "run has no results.json, so the run is not finished; continue it with --resume",
    "cluster --model {here}/none --images {pictures}": "none holds no run",
    "cluster --model {here}/run --images {here}/none": "none is not a folder of pictures",
    "cluster --model {here}/run --images {here}/empty": "empty holds no pictures",
    "cluster --model {here}/run --images {pictures} --clusters -1": "--clusters is -1; it must be at least 0",
    "cluster --model {here}/run --images {pictures} --clusters 81": "--clusters is 81; give at most 80",
    "cluster --model {here}/run --images {pictures} --boxes {pictures}": "--boxes .* is a folder; give a CSV",
    "cluster --model {here}/run --images {pictures} --boxes {here}/none.csv": "none.csv",
    "cluster --model {here}/run --images {pictures} --out {pictures}/out": "--out .*out lies in --images",
    "cluster --model {here}/run --images {pictures} --out {here}": "holds files that are not results of an earlier",
    "tune --trials 0": "--trials is 0; it must be at least 1",
    "tune --preset cub_best": "--preset is 'cub_best'; there are search spaces for glyphs_simple",
    "tune --workdir {here}/file": "--workdir {here}/file cannot be a folder",
    "plan --for v9": "--for v9: unknown; give v5e:4x4",
    "weights inspect {here}/none.npz": "none.npz",
    "weights convert {here}/file": "file: weights are .safetensors or .npz files",
    "weights convert {here}/other.safetensors": "exists already; name another with --output",
}


@pytest.mark.parametrize("line", OTHERS)
def test_a_mistake_with_another_verb(line, config, places, monkeypatch, capsys):  # noqa: F811
    here = places["here"]
    untrained(config, here / "run", [3])
    without_test = configs.override(config, {"data.split": "0-4/5-9"})
    untrained(without_test, here / "blind", [3])
    configs.save(here / "begun/config.json", config)
    before = sorted(here.rglob("*"))
    verb, *words = line.format(**places).split()
    code, said = called(verb, words, monkeypatch, capsys)
    assert code == 1
    check(said, OTHERS[line].format(**places))
    assert sorted(path for path in here.rglob("*") if path.name != "run.lock") == before


def test_a_directory_that_cannot_be_taken_is_named(places, config, monkeypatch, capsys):  # noqa: F811
    here, words = places["here"], sound(places)
    untrained(config, here / "run", [3])
    configs.save(here / "mine/config.json", config)
    (here / "begun").mkdir()
    with locked(here / "begun"):
        for place, named in {
            "file": "--workdir .*file cannot be a folder",
            "file/below": "--workdir .*below cannot be a folder",
            "run": r"run holds a run; continue with `jaxml train --workdir \S+/run --resume`, or choose another",
            "mine": "mine holds a run; continue with `.*--resume`, or choose another --workdir",
            "begun": "begun is being trained by process",
            "run --resume": "--train.steps is 2, but the run in .*run has come to step 3; give 3 or more",
            "run --resume --train.seed 1": "run holds another run; it differs in train.seed: 0 -> 1",
        }.items():
            code, said = called(
                "train", [*words, "--workdir", *f"{here}/{place}".split()], monkeypatch, capsys
            )
            assert code == 1
            check(said, named)


def test_a_start_that_has_saved_nothing_leaves_a_directory_that_is_used_again(places, monkeypatch, capsys):
    """The second command is the corrected one: it trains, although the first has come as far as to the steps."""
    workdir, words = places["here"] / "run", sound(places)
    wrong = [*words, "--optim.learning_rate", "1e30", "--model.no_normalize", "--workdir", str(workdir)]
    code, said = called("train", wrong, monkeypatch, capsys)
    assert code == 1
    assert "lower --optim.learning_rate" in said.splitlines()[-1]
    assert {path.name for path in workdir.iterdir()} == {
        "config.json",
        "data.jsonl",
        "metrics.jsonl",
        "run.lock",
    }
    (workdir / "notes.txt").write_text("mine")
    code, said = called("train", [*words, "--workdir", str(workdir)], monkeypatch, capsys)
    assert "holds a run" in said, "there is somebody's file"
    (workdir / "notes.txt").unlink()
    (workdir / f"config.json.{'0' * 32}.part").touch()
    parsed = parse_train([*words, "--workdir", str(workdir)])
    importlib.import_module("jaxml.commands.train").main([*words, "--workdir", str(workdir)])
    assert "clusters of unseen classes" in capsys.readouterr().out
    assert configs.load(workdir / "config.json") == parsed.config
    assert not list(workdir.glob("*.part"))


def run(*words, **environment):
    """A process of `jaxml`."""
    return subprocess.run(
        [sys.executable, "-m", "jaxml", *words],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_platform_that_is_not_there_is_one_line(places):
    done = run("train", *sound(places), "--workdir", str(places["here"] / "run"), JAX_PLATFORMS="nonsense")
    assert done.returncode == 1
    check(done.stderr, "JAX_PLATFORMS is 'nonsense': .*known backends")
    assert not (places["here"] / "run").exists()
