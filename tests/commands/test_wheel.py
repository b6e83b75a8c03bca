"""The wheel, installed with the packages that it declares and no others: all that a newcomer does works with it."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image, ImageOps

from jaxml.data.sources.glyphs import IMAGES_PER_CLASS, Drawings

ROOT = Path(__file__).parents[2]
SOURCES = ("jaxml", "pyproject.toml", "README.md", "LICENSE")
TRAIN = (
    "train --data.source folder --data.root pictures --data.split 0-5/6-7/8-11 --data.stored_size 32 --data.size 24 "
    "--data.classes_per_batch 6 --data.images_per_class 4 --data.cache cache --model.feature_size 8 --train.steps 6 "
    "--train.eval_every 3 --train.log_every 2 --eval.kmeans_seeds 2 --workdir run"
)
CLASSES, EACH = 12, 9
TURNED_BACK = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""By EXIF orientation, how an upright picture is turned to be stored with it."""
IN_PYTHON = """
import numpy as np
import jaxml

names = sorted(np.load("unsorted.npz")["names"])
model = jaxml.load("run")
np.save("found.npy", model.embed([f"unsorted/{name}" for name in names]))
np.save("three.npy", model.embed(["pictures/08/0.png", "turned.jpg", "on its side.png"]))
model.export("exported")
"""
WITHOUT_JAXML = """
import json
from importlib.util import find_spec
import jax
import numpy as np

assert not any(map(find_spec, ("jaxml", "flax", "PIL")))
about = json.load(open("export.json"))
with open(about["program"], "rb") as file:
    embed = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
np.save("found.npy", embed(np.load("pixels.npy")))
"""


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
    (about,) = metadata.distributions(name="jaxml", path=[str(site)])
    link(site, about.requires)

    def call(*words):
        return python(str(site / "bin/jaxml"), *words, site=site, here=here)

    call.site, call.here = site, here
    return call


def link(site, lines):
    """Put into a folder the installed packages that these requirements name, and what those need in turn."""
    wanted, linked = [(Requirement(line), "") for line in lines], set()
    while wanted:
        requirement, extra = wanted.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for extra in requirement.extras | {""}:
            if (requirement.name, extra) not in linked:
                linked.add((requirement.name, extra))
                wanted += [(Requirement(line), extra) for line in metadata.requires(requirement.name) or ()]
        for name in {file.parts[0] for file in metadata.files(requirement.name)} - {"..", "__pycache__"}:
            with suppress(FileExistsError):
                (site / name).symlink_to(metadata.distribution(requirement.name).locate_file(name))


def python(*words, site, here):
    """Run Python where no packages are installed but those in a folder; returns what it prints."""
    kept = ("HOME", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-S", *words]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


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
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert jaxml("--version") == f"jaxml {version}\n"
    code = "import jaxml; print(jaxml.__file__)"
    said = python("-c", code, site=jaxml.site, here=jaxml.here)
    assert Path(said.strip()).is_relative_to(jaxml.site)


def encoded(picture, path, orientation=1):
    """Write a picture so that it comes back as it is, but for what JPEG loses."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture.transpose(TURNED_BACK[orientation]) if orientation != 1 else picture
    options = {".jpg": {"quality": 100, "subsampling": 0, "exif": exif}, ".webp": {"lossless": True}}
    stored.save(path, **options.get(path.suffix, {}))


def draw(here):
    """Folders of a newcomer: classes of drawn characters, some more unsorted, each with a rotated copy, and a query."""
    drawings = Drawings(seed=0)

    def drawn(label, i):
        return Image.open(io.BytesIO(drawings[label * IMAGES_PER_CLASS + i]))

    forms = [(".png", 1), (".webp", 1), *((".jpg", orientation) for orientation in TURNED_BACK)]
    (here / "unsorted").mkdir()
    for label in range(CLASSES):
        (here / f"pictures/{label:02d}").mkdir(parents=True)
        for i in range(EACH):
            ending, orientation = forms[i % len(forms)]
            encoded(drawn(label, i), here / f"pictures/{label:02d}/{i}{ending}", orientation)
        encoded(drawn(label, EACH), here / f"unsorted/{label:02d}.png")
        encoded(drawn(label, EACH), here / f"unsorted/{label:02d} turned.jpg", forms[2 + label % 3][1])
    encoded(drawn(8, 0), here / "turned.jpg", 6)
    drawn(8, 0).transpose(TURNED_BACK[6]).save(here / "on its side.png")


def test_the_whole_session_of_a_newcomer(jaxml, tmp_path):
    """From folders of pictures to a network, its scores, clusters and neighbours, and a program without jaxml."""
    here = jaxml.here
    draw(here)

    said = jaxml(*TRAIN.split())
    results = json.loads((here / "run/results.json").read_text())
    history = [json.loads(line) for line in (here / "run/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in history if "loss" in row]
    assert history[-1]["step"] == 6
    assert len({*losses}) == len(losses) > 0
    assert np.isfinite(losses).all()
    assert re.search(rf"^this run +{results['test']['nmi']:.4f} ", said, re.M)
    assert results["baselines"].keys() == {"raw pixels (8 x 8)"}
    assert len((here / "run/data.jsonl").read_text().splitlines()) == 1 + CLASSES * EACH

    said = jaxml("evaluate", "--workdir", "run")
    assert said.startswith("36 images of 4 test classes, by 8 of 8 dimensions:")
    printed = {name: float(value) for name, value in re.findall(r"^  (\S+) +(-?[\d.]+)", said, re.M)}
    assert printed == {
        name: pytest.approx(value, abs=5.1e-5)
        for name, value in results["test"].items()
        if not name.endswith("_std")
    }

    report = here / "run/report.html"
    written = report.read_text()
    report.unlink()
    assert jaxml("report", "--workdir", "run") == "report: run/report.html\n"
    assert report.read_text() == written
    assert all(f"{label:02d}/{i}" in written for label in range(8, 12) for i in range(EACH))

    said = jaxml("embed", "--model", "run", "--images", "unsorted", "--out", "unsorted.npz")
    assert said == "24 embeddings of 8 numbers: unsorted.npz\n"
    with np.load(here / "unsorted.npz") as file:
        names, embeddings = file["names"].tolist(), file["embeddings"]
    assert names == sorted(path.name for path in (here / "unsorted").iterdir())
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    between = np.linalg.norm(embeddings[:, None] - embeddings, axis=2)
    copies, others = between[::2, 1::2].diagonal(), between[::2, ::2][~np.eye(CLASSES, dtype=bool)]
    assert copies.max() < others.min() / 5

    said = jaxml("search", "--model", "run", "--images", "pictures", "--query", "turned.jpg", "--count", "3")
    nearest = [(name, float(distance)) for distance, name in re.findall(r"^ *([\d.]+)  (.+)$", said, re.M)]
    assert nearest[0][0] == "08/0.png"
    assert 5 * nearest[0][1] < nearest[1][1] <= nearest[2][1]
    assert said.endswith("108 pictures: nearest/nearest.html\n")
    assert (here / "nearest/nearest.html").read_text().count("<img") == 4

    said = jaxml("cluster", "--model", "run", "--images", "unsorted", "--clusters", "4")
    assert said.endswith("4 clusters: run/clusters/clusters.html\n")
    with open(here / "run/clusters/clusters.csv", newline="", encoding="utf-8") as file:
        clusters = {row["file"]: row["cluster"] for row in csv.DictReader(file)}
    assert sorted(clusters) == names
    assert {*clusters.values()} == {"1", "2", "3", "4"}
    assert all(clusters[name] == clusters[name.replace(".png", " turned.jpg")] for name in names[1::2])

    python("-c", IN_PYTHON, site=jaxml.site, here=here)
    assert np.array_equal(np.load(here / "found.npy"), embeddings)
    original, turned, on_its_side = np.load(here / "three.npy")
    assert np.linalg.norm(turned - original) == pytest.approx(nearest[0][1], abs=1e-4)
    assert np.linalg.norm(on_its_side - original) > nearest[1][1]

    side = json.loads((here / "exported/export.json").read_text())["input"]["shape"][1]
    upright = [ImageOps.exif_transpose(Image.open(here / "unsorted" / name)).convert("RGB") for name in names]
    squares = [picture.resize((side, side), Image.Resampling.BILINEAR) for picture in upright]
    np.save(here / "exported/pixels.npy", np.stack(squares))
    link(tmp_path, ["jax", "flatbuffers"])
    python("-c", WITHOUT_JAXML, site=tmp_path, here=here / "exported")
    np.testing.assert_allclose(np.load(here / "exported/found.npy"), embeddings, atol=2e-6)
