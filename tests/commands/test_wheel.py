"""The wheel, built and installed into a folder of its own: it holds all that jaxml needs, and trains far from here."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SOURCES = ("jaxml", "pyproject.toml", "README.md", "LICENSE")
# Without test classes the images of all but 24 classes are left out, which saves most of the time.
OPTIONS = (
    "train --preset glyphs_simple --data.split 0-15/16-23 --data.stored_size 24 --data.size 24 --data.cache cache "
    "--train.steps 4 --train.eval_every 4 --train.devices 1 --eval.kmeans_seeds 1"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built without network from a copy of the sources."""
    place = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place)
    pip("wheel", str(place), "--no-deps", "--no-build-isolation", "--wheel-dir", str(place / "dist"))
    (found,) = (place / "dist").iterdir()
    return found


@pytest.fixture(scope="module")
def jaxml(wheel, tmp_path_factory):
    """The installed command, called in an empty folder."""
    site, here = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    pip("install", str(wheel), "--no-deps", "--no-index", "--target", str(site))
    environment = {**os.environ, "PYTHONPATH": str(site), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}

    def call(*words):
        done = subprocess.run(
            [str(site / "bin/jaxml"), *words],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    call.site, call.here, call.environment = site, here, environment
    return call


def pip(*words):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "jaxml").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == wanted
    assert {"jaxml/py.typed", "jaxml/reports/templates/run.html", "jaxml/planning/h100_sxm.txtpb"} <= inside


def test_the_wheel_is_what_the_command_runs(jaxml):
    assert "usage: jaxml VERB" in jaxml("--help")
    command = [sys.executable, "-c", "import jaxml; print(jaxml.__file__)"]
    done = subprocess.run(
        command, cwd=jaxml.here, env=jaxml.environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(jaxml.site)


def test_it_trains_scores_reports_and_clusters_without_the_repository(jaxml):
    said = jaxml(*OPTIONS.split(), "--workdir", "run")
    assert "report: run/report.html" in said
    assert "400 images of 8 val classes" in jaxml("evaluate", "--workdir", "run", "--split", "val")
    (jaxml.here / "run/report.html").unlink()
    jaxml("report", "--workdir", "run")
    assert (jaxml.here / "run/report.html").read_text().startswith("<!DOCTYPE html>")
    rng = np.random.default_rng(0)
    (jaxml.here / "pictures").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(jaxml.here / f"pictures/{i}.png")
    assert "3 clusters" in jaxml("cluster", "--workdir", "run", "--images", "pictures", "--clusters", "3")
    assert (jaxml.here / "run/clusters/clusters.html").exists()
