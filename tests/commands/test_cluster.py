"""Clustering a folder of unlabelled pictures with a small trained run whose own pictures are gone."""

import csv
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxml
from jaxml.commands import cluster, search
from jaxml.config import Config, Data, Eval, Loss, Model, Train
from jaxml.data.sources import unlabelled
from jaxml.errors import RunError
from jaxml.evaluation import grouping as group
from jaxml.evaluation import metrics
from jaxml.reports import clusters as gallery
from jaxml.training import run, train
from tests.made_up_pictures import draw, write_classes

CLASSES, EACH = 4, 9


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's directory, the pixels of its data set and their embeddings; the data set itself is deleted."""
    root = tmp_path_factory.mktemp("trained")
    pixels = write_classes(root / "pictures")
    config = Config(
        data=Data(
            source="folder",
            root=str(root / "pictures"),
            split="0-4/5-6/7-9",
            stored_size=24,
            size=20,
            classes_per_batch=4,
            images_per_class=2,
            cache=str(root / "cache"),
        ),
        model=Model(feature_size=8),
        loss=Loss(name="proxy_anchor"),
        train=Train(steps=20, log_every=5, eval_every=10, save_every=10, devices=1),
        eval=Eval(batch_size=16, kmeans_seeds=1),
    )
    train.train(config, root / "run")
    opened = run.load(root / "run")
    embeddings = opened.embed(np.arange(60))
    shutil.rmtree(root / "pictures")
    shutil.rmtree(root / "cache")
    return root / "run", pixels, embeddings


@pytest.fixture(scope="module")
def main():
    return lambda *words: cluster.main([str(word) for word in words])


@pytest.fixture
def folder(tmp_path):
    """Pictures of unseen classes under meaningless names, some in subfolders, beside files that are not pictures."""
    root, rng = tmp_path / "unknown <b>", np.random.default_rng(1)
    (root / "deep/er").mkdir(parents=True)
    (root / ".hidden").mkdir()
    pixels = draw(rng, CLASSES, EACH)
    truth = {}
    for place, i in enumerate(rng.permutation(len(pixels)).tolist()):
        name = f"deep/er/{place}" if place % 3 == 0 else f"{place} <i>&.PNG"
        Image.fromarray(pixels[i]).save(root / name, format="PNG")
        truth[name] = i // EACH
    for before, name in (("1 <i>&.PNG", b"\xff\n\x1b[2J.png"), ("2 <i>&.PNG", b"=1+1.png")):
        os.rename(os.fsencode(root / before), os.fsencode(root) + b"/" + name)
        truth[os.fsdecode(name)] = truth.pop(before)
    (root / "empty.png").touch()
    (root / "notes.txt").write_text("no picture")
    (root / "half.png").write_bytes((root / "deep/er/0").read_bytes()[:500])
    (root / "nowhere.jpg").symlink_to(root / "missing")
    os.mkfifo(root / "pipe.jpg")
    (root / "to\x1b[31m\u202epipe.jpg").symlink_to(root / "pipe.jpg")
    (root / "zero.jpg").symlink_to("/dev/zero")
    (root / ".hidden/0.png").write_bytes((root / "deep/er/0").read_bytes())
    return root, truth


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def labels(truth):
    """Clusters by file name, from the table."""
    return {gallery._cell(name): label for name, label in truth.items()}


def test_network_is_loaded_without_its_data_set(trained):
    workdir, pixels, embeddings = trained
    model = jaxml.load(workdir)
    assert model.about["loss"]["name"] == "proxy_anchor"
    np.testing.assert_allclose(model.embed(pixels), embeddings, atol=1e-6)


def test_folder_is_clustered(trained, main, folder, tmp_path, capsys):
    root, truth = folder
    main("--model", trained[0], "--images", root, "--clusters", CLASSES, "--out", tmp_path / "out")
    rows = table(tmp_path / "out/clusters.csv")
    assert sorted(row["file"] for row in rows) == sorted(labels(truth))
    assert {int(row["cluster"]) for row in rows} == set(range(1, CLASSES + 1))
    found = np.array([int(row["cluster"]) for row in rows])
    assert metrics.nmi(found, np.array([labels(truth)[row["file"]] for row in rows])) > 0.9
    sizes = np.bincount(found)[1:]
    assert sizes.tolist() == sorted(sizes, reverse=True)
    # Contact sheets and page.
    assert len(list((tmp_path / "out/contact").iterdir())) == CLASSES
    page = (tmp_path / "out/clusters.html").read_text(encoding="utf-8")
    assert page.count("<h3>Central</h3>") == CLASSES
    assert "4 clusters of unknown &lt;b&gt;" in page
    assert "<b>unknown" not in page
    assert "<i>&" not in page
    assert not re.search(r"""(src|href)=["'](?!data:|contact/cluster_00\d\.jpg)""", page), (
        "a resource outside the page"
    )
    # What could not be read.
    bad = {"empty.png", "half.png", "notes.txt", "nowhere.jpg", "pipe.jpg", "zero.jpg"}
    bad.add(r"to\x1b[31m\u202epipe.jpg")
    listed = (tmp_path / "out/skipped.txt").read_text(encoding="utf-8").splitlines()
    assert {line.split("\t")[0] for line in listed} == bad
    assert all(name in page for name in bad)
    assert "36 pictures; 7 files left out" in capsys.readouterr().out
    # Once more: the earlier files are replaced, and nothing else.
    (tmp_path / "out/contact/notes.txt").write_text("mine")
    main("--model", trained[0], "--images", root, "--clusters", 2, "--out", tmp_path / "out")
    assert len(table(tmp_path / "out/clusters.csv")) == len(truth)
    sheets = sorted(path.name for path in (tmp_path / "out/contact").iterdir())
    assert sheets == ["cluster_001.jpg", "cluster_002.jpg", "notes.txt"]


def test_nothing_of_a_hostile_name_reaches_terminal_or_files(trained, main, folder, tmp_path, capsys):
    root, _ = folder
    out = tmp_path / "out"
    main("--model", trained[0], "--images", root, "--clusters", 2, "--out", out / "all")
    words = ("--model", trained[0], "--images", root, "--query", root / "=1+1.png", "--out", out / "near")
    search.main([str(word) for word in words])
    written = [path for path in out.rglob("*") if path.suffix in (".txt", ".csv", ".html", ".json")]
    assert len(written) == 7
    for text in (*(path.read_text(encoding="utf-8") for path in written), capsys.readouterr().out):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e\ud800-\udfff]", text.replace("\r\n", "\n"))
    cells = [row["file"] for row in table(out / "all/clusters.csv")]
    assert "'=1+1.png" in cells
    assert r"\udcff\n\x1b[2J.png" in cells
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)


def test_the_input_is_never_the_output(trained, main, folder, tmp_path):
    root, _ = folder
    images = tmp_path / "ct" / "contact"
    shutil.copytree(root, images, symlinks=True, ignore=shutil.ignore_patterns("pipe.jpg"))
    (images / "cluster_001.jpg").write_bytes((images / "deep/er/0").read_bytes())
    before = sorted(path.name for path in images.rglob("*"))
    (tmp_path / "link").symlink_to(tmp_path / "ct")
    for out in (tmp_path / "ct", tmp_path / "link", images, images / "out"):
        with pytest.raises(ValueError, match=r"--out .* --images .*; give another folder"):
            main("--model", trained[0], "--images", images, "--clusters", 2, "--out", out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/clusters.csv").write_text("my own table")
    with pytest.raises(ValueError, match=r"--out .*mine holds files that are not results"):
        main("--model", trained[0], "--images", images, "--clusters", 2, "--out", tmp_path / "mine")
    assert sorted(path.name for path in images.rglob("*")) == before
    assert (tmp_path / "mine/clusters.csv").read_text() == "my own table"


def test_number_of_clusters_is_chosen(trained, main, folder, tmp_path, capsys):
    root, truth = folder
    main("--model", trained[0], "--images", root, "--out", tmp_path / "out")
    printed = re.search(r"(\d+) clusters have the highest", capsys.readouterr().out)
    rows = table(tmp_path / "out/clusters.csv")
    assert len({row["cluster"] for row in rows}) == int(printed[1])
    assert metrics.purity([int(r["cluster"]) for r in rows], [labels(truth)[r["file"]] for r in rows]) > 0.9


def test_boxes_crop_as_cropping_beforehand_does(tmp_path):
    rng = np.random.default_rng(2)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cropped").mkdir()
    boxes = {"a.jpg": (3.0, 4.0, 20.0, 11.0), "b.jpg": (0.0, 7.0, 31.0, 30.0)}
    for name, (left, top, width, height) in boxes.items():
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(tmp_path / "whole" / name)
        with Image.open(tmp_path / "whole" / name) as image:
            crop = image.crop((int(left), int(top), int(left + width), int(top + height)))
            crop.save(tmp_path / "cropped" / name, format="PNG")
    shutil.copy(tmp_path / "whole/a.jpg", tmp_path / "whole/c.jpg")
    lines = ["file,left,top,width,height", *(f"{n},{','.join(map(str, b))}" for n, b in boxes.items())]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    whole = list(unlabelled.find(tmp_path / "whole", boxes=tmp_path / "boxes.csv").decode(16))
    cropped = list(unlabelled.find(tmp_path / "cropped").decode(16))
    np.testing.assert_array_equal(whole[:2], cropped)
    assert "c.jpg has no box" in str(whole[2])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "whole/b.jpg").rename(tmp_path / "elsewhere/original.jpg")
    (tmp_path / "whole/b.jpg").symlink_to(tmp_path / "elsewhere/original.jpg")
    pictures = unlabelled.find(tmp_path / "whole", boxes=tmp_path / "boxes.csv")
    query = unlabelled.single(tmp_path / "whole/b.jpg", pictures)
    assert (query.root, query.names) == (pictures.root, ("b.jpg",))
    np.testing.assert_array_equal(next(query.decode(16)), cropped[1])


HEADER = b"file,left,top,width,height\n"


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (HEADER + b"a.jpg,1,2,x,4", 2, "must be numbers"),
        (HEADER + b"a.jpg,1,2,3", 2, "must be numbers"),
        (HEADER + b"a.jpg,1,2,0,4", 2, "must be numbers of pixels, the last two above 0"),
        (HEADER + b"a.jpg,1,nan,3,4", 2, "must be numbers"),
        (HEADER + b"b.jpg,1,2,3,4\na.jpg,1,2,1e30,4", 3, "must be numbers of pixels"),
        (HEADER + b"a.jpg,-1e30,2,3,4", 2, "must be numbers of pixels"),
        (HEADER + b"a.jpg,1,1e999,3,4", 2, "must be numbers of pixels"),
        (HEADER + b"a.jpg,1,2,3,4\n" + b"x" * 131_073 + b",1,2,3,4", 3, "field larger than field limit"),
        (b"x" * 131_073, 1, "field larger than field limit"),
        (HEADER + b"a.jpg,1,2,3,4\na.jpg,1,2,3,5", 3, r"a second box of a\.jpg"),
        (HEADER + b",1,2,3,4", 2, "name of the file is missing"),
        (b"left,top,width,height,file\n1,2,3,4", 2, "name of the file is missing"),
        (b"a.jpg,1,2,3,4", 1, "begins with the line file,left,top,width,height"),
        (b"", 1, "begins with the line"),
        (b"\xff\xfef\0i\0l\0e\0", 1, "begins with the line"),
        (HEADER + b'"a\x1b[2J\n.jpg",1,2,3,4\n"a\x1b[2J\n.jpg",1,2,3,4', 5, r"box of a\\x1b\[2J\\n\.jpg"),
    ],
)
def test_bad_boxes_name_the_line(tmp_path, content, line, message):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "boxes.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"boxes.csv, line {line}: .*{message}") as caught:
        unlabelled.find(tmp_path, boxes=tmp_path / "boxes.csv")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "as Excel writes it"])
def test_boxes_may_begin_with_a_mark_of_their_encoding(tmp_path, mark):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "boxes.csv").write_bytes(mark + HEADER + b"\xff.jpg,1.0,2.0,3.0,4.0\n")
    found = unlabelled.find(tmp_path, boxes=tmp_path / "boxes.csv").corners
    assert {name: corner.tolist() for name, corner in found.items()} == {
        os.fsdecode(b"\xff.jpg"): [1, 2, 4, 6]
    }


def test_groups_against_plain_loops():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, 5)).astype(np.float32)
    found = group.group(x, 6)
    assert found.count == 6
    members = [[n for n in range(50) if found.clusters[n] == k] for k in range(6)]
    assert [len(m) for m in members] == sorted((len(m) for m in members), reverse=True)
    means = [[sum(float(x[n, d]) for n in m) / len(m) for d in range(5)] for m in members]
    for n in range(50):
        to = [math.dist(x[n].tolist(), mean) for mean in means]
        own = to[found.clusters[n]]
        other, runner_up = min((d, k) for k, d in enumerate(to) if k != found.clusters[n])
        assert found.runner_up[n] == runner_up
        assert found.distance[n] == pytest.approx(own, rel=1e-5)
        assert found.confidence[n] == pytest.approx((other - own) / max(own, other), abs=1e-5)
    for k in range(6):
        ordered = found.members(k)
        assert sorted(ordered.tolist()) == members[k]
        assert (np.diff(found.distance[ordered]) >= 0).all()


def test_one_cluster_has_no_runner_up():
    found = group.group(np.random.default_rng(0).normal(size=(5, 3)), 1)
    assert (found.runner_up == -1).all()
    assert (found.confidence == 1).all()


def test_criterion_against_plain_loops():
    rng = np.random.default_rng(4)
    centres = rng.normal(size=(7, 6)) * 3
    x = (centres[rng.integers(7, size=90)] + rng.normal(size=(90, 6))).astype(np.float32)
    scores = group.choose(x)
    assert list(scores)[:6] == [1, 2, 3, 4, 5, 6]
    for k in (1, 4, 7):
        labels = group.cluster(x, k, n_init=1)
        total, likelihood = 0.0, 0.0
        for c in range(k):
            members = [x[n].astype(float) for n in range(90) if labels[n] == c]
            mean = sum(members) / len(members)
            total += sum(float(((v - mean) ** 2).sum()) for v in members)
            likelihood += len(members) * math.log(len(members) / 90)
        likelihood -= 90 * 6 / 2 * math.log(total / (90 * 6))
        assert scores[k] == pytest.approx((likelihood - k * 7 / 2 * math.log(90)) / 90, rel=1e-6)
    assert max(scores, key=scores.get) == 7


def test_nothing_to_tell_apart_is_one_cluster():
    for x in (np.ones((1, 4)), np.ones((30, 4))):
        scores = group.choose(x)
        assert max(scores, key=scores.get) == 1
    noise = group.choose(np.random.default_rng(0).normal(size=(200, 8)))
    assert max(noise, key=noise.get) == 1


def test_long_clusters_take_several_sheets(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 255, (5, 24, 24, 3), np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(gallery, "PER_SHEET", 2)
    out = tmp_path / "out"
    out.mkdir()
    groups = group.Groups(np.zeros(5, int), np.arange(5.0, 0, -1), np.full(5, -1), np.ones(5))
    gallery.write(out, unlabelled.find(tmp_path), groups, errors={}, choice="")
    names = sorted(path.name for path in (out / "contact").iterdir())
    assert names == ["cluster_001.jpg", "cluster_001_2.jpg", "cluster_001_3.jpg"]
    step, side = gallery.SIDE + gallery.GAP, gallery.SIDE
    with Image.open(out / "contact/cluster_001_3.jpg") as sheet:
        assert sheet.size == (step + gallery.GAP, step + gallery.GAP)
    with Image.open(out / "contact/cluster_001.jpg") as sheet:
        assert sheet.size == (2 * step + gallery.GAP, step + gallery.GAP)
        first = np.asarray(sheet)[4 : 4 + side, 4 : 4 + side]
    expected = np.asarray(Image.fromarray(images[4]).resize((side, side), Image.Resampling.BILINEAR))
    assert np.abs(first.astype(float) - expected).mean() < 10, "the most central picture comes first"
    assert not (out / "skipped.txt").exists()


def test_mistakes_are_named(trained, main, folder, tmp_path):
    root, _ = folder
    empty, bad, out = tmp_path / "empty", tmp_path / "bad", tmp_path / "out"
    empty.mkdir()
    bad.mkdir()
    (bad / "a.png").write_text("no")
    (bad / "b.png").write_text("no")
    cases = [
        (["--images", empty], ValueError, "empty holds no pictures"),
        (["--images", tmp_path / "none"], ValueError, "none is not a folder"),
        (["--images", bad], ValueError, r"none of the 2 files can be read: image a\.png cannot"),
        (["--images", root, "--clusters", 44], ValueError, "--clusters is 44; give at most 43"),
        (
            ["--images", root, "--clusters", 38],
            ValueError,
            "1 to 36 clusters of 36 images; num_clusters is 38",
        ),
        (["--images", root, "--out", root], ValueError, "--out .* is --images"),
        (["--images", root, "--model", tmp_path], RunError, "holds no run"),
    ]
    for words, error, message in cases:
        with pytest.raises(error, match=message):
            main("--model", trained[0], "--out", out, *words)
    assert not out.exists()


def test_a_folder_that_can_not_be_read_is_an_error_and_not_left_out(tmp_path, monkeypatch):
    for name in ("open", "secret"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    scandir = os.scandir

    def refused(path):
        if Path(path).name == "secret":  # root may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(
        ValueError, match=r"^--images: the folder .*secret cannot be read \(Permission denied\)$"
    ):
        unlabelled.find(tmp_path)
