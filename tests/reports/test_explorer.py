"""What the scripts of a report are given: classes, confusions, mistakes, map and pictures, against plain loops."""

import base64
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from jaxml.evaluation import metrics
from jaxml.reports import classes, explorer, sprites
from jaxml.reports.images import Images


@pytest.fixture(scope="module")
def images():
    """Images of 7 classes that overlap; the last class has one image."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(7), [9, 4, 12, 2, 8, 6, 1]))
    embeddings = rng.normal(size=(7, 5))[labels] + 0.8 * rng.normal(size=(42, 5))
    pixels = np.broadcast_to(rng.integers(0, 256, (42, 1, 1, 3), np.uint8), (42, 40, 40, 3)).copy()
    names = [f"class {label}" for label in range(7)]
    return Images(embeddings, labels, pixels, names, [f"{row}.jpg" for row in range(42)])


@pytest.fixture(scope="module")
def clusters():
    """Clusters whose numbers have gaps."""
    return np.random.default_rng(1).integers(0, 6, 42) * 3 + 5


@pytest.fixture(scope="module")
def value(images, clusters):
    return explorer.explore(images, clusters, seed=0)


def nearest_loop(images):
    """The nearest image of each one, by loops; None for the image that is alone in its class."""
    found = []
    for i, x in enumerate(images.embeddings):
        others = [(sum((x - y) ** 2), j) for j, y in enumerate(images.embeddings) if j != i]
        alone = list(images.labels).count(images.labels[i]) == 1
        found.append(None if alone else min(others)[1])
    return found


def test_recall_of_classes_is_that_of_the_metrics(images, value):
    nearest = nearest_loop(images)
    for label, recall in enumerate(value["classes"]["recall"]):
        rows = [i for i in range(42) if images.labels[i] == label]
        if len(rows) == 1:
            assert recall is None
            continue
        right = sum(images.labels[nearest[i]] == label for i in rows)
        assert recall == pytest.approx(right / len(rows), abs=5e-5)
    sizes = np.array(value["classes"]["size"])
    assert sizes.tolist() == np.bincount(images.labels).tolist()
    asked = sizes > 1
    mean = np.average(np.array(value["classes"]["recall"], float)[asked], weights=sizes[asked])
    recall = metrics.recall_at_k(images.embeddings, images.labels, [1])[1]
    assert 0.2 < recall < 0.9
    assert mean == pytest.approx(recall, abs=1e-4)
    assert 1 - value["misled"] / value["queries"] == pytest.approx(recall)


def test_confusions_are_those_of_the_nearest_images(images, value):
    nearest = nearest_loop(images)
    labels = images.labels.tolist()
    wrong = [
        (labels[i], labels[j]) for i, j in enumerate(nearest) if j is not None and labels[i] != labels[j]
    ]
    expected = sorted(([a, b, n] for (a, b), n in Counter(wrong).items()), key=lambda p: (-p[2], p[0], p[1]))
    assert value["pairs"] == expected
    assert value["all_pairs"] == len(expected)
    for label, taken in enumerate(value["classes"]["taken"]):
        assert taken == [[b, n] for a, b, n in expected if a == label][:3]


def test_purity_is_of_the_cluster_that_holds_most_of_the_class(images, clusters, value):
    numbers = sorted(set(clusters.tolist()))
    for label in range(7):
        own = Counter(clusters[images.labels == label].tolist())
        main = min(own, key=lambda c: (-own[c], c))
        assert numbers[value["classes"]["cluster"][label]] == main
        share = own[main] / clusters.tolist().count(main)
        assert value["classes"]["purity"][label] == pytest.approx(share, abs=5e-5)


def test_mistakes_are_those_of_the_clusters(images, clusters, value):
    majority = metrics.majority_class(clusters, images.labels)
    rows = [int(name.removesuffix(".jpg")) for name in value["images"]["file"]]
    assert sorted(rows) == list(range(42))
    assert value["misplaced"] == sum(majority != images.labels) > 5
    assert value["images"]["label"] == images.labels[rows].tolist()
    for place, row in enumerate(rows):
        label, typical, size, central = value["clusters"][value["images"]["cluster"][place]]
        members = [i for i in range(42) if clusters[i] == clusters[row]]
        own = [i for i in members if images.labels[i] == majority[row]]
        assert (label, typical, size) == (majority[row], len(own), len(members))
        mean = images.embeddings[members].mean(0)
        assert rows[central] == min(own, key=lambda i: np.linalg.norm(images.embeddings[i] - mean))


def test_nearest_images_are_places_on_the_page(images, value):
    rows = [int(name.removesuffix(".jpg")) for name in value["images"]["file"]]
    nearest = nearest_loop(images)
    for place, row in enumerate(rows):
        near, label = value["images"]["nearest"][place], value["images"]["nearest_class"][place]
        if nearest[row] is None:
            assert (near, label) == (-1, -1)
        else:
            assert (rows[near], label) == (nearest[row], images.labels[nearest[row]])


def test_a_page_that_holds_some_images_counts_all(images, clusters, value, monkeypatch):
    monkeypatch.setattr(explorer, "HELD", 10)
    part = explorer.explore(images, clusters, seed=0)
    for name in ("classes", "pairs", "misplaced", "misled", "queries", "total"):
        assert part[name] == value[name]
    assert {len(column) for column in part["images"].values()} == {10}
    assert part["images"]["file"] == value["images"]["file"][:10]
    whole = value["images"]["nearest"][:10]
    assert part["images"]["nearest"] == [place if place < 10 else -1 for place in whole]
    assert part["images"]["nearest_class"] == value["images"]["nearest_class"][:10]
    assert all(place < 10 for *_, place in part["clusters"])


def test_coordinates_are_whole_numbers_from_zero(value):
    x, y = value["images"]["x"], value["images"]["y"]
    assert min(x) == min(y) == 0
    assert max(*x, *y) == explorer.EXTENT


def decoded(made):
    """The mean colour of each picture of the sheets, [count, 3]."""
    colours = []
    for uri in made.sheets:
        data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
        sheet = np.asarray(Image.open(io.BytesIO(data)), float)
        for top in range(0, sheet.shape[0], made.side):
            cells = range(0, sheet.shape[1], made.side)
            colours += [sheet[top : top + made.side, left : left + made.side].mean((0, 1)) for left in cells]
    return np.array(colours[: made.held])


def test_pictures_stand_in_their_order(images, value, monkeypatch):
    rows = [int(name.removesuffix(".jpg")) for name in value["images"]["file"]]
    made = sprites.Sprites(**value["sprites"])
    assert (made.side, made.held) == (32, 42)
    np.testing.assert_allclose(decoded(made), images.pixels[rows, 0, 0], atol=10)
    monkeypatch.setattr(sprites, "SHEET", 96)  # five sheets of nine
    made = sprites.sprites(images.pixels, np.arange(42))
    assert len(made.sheets) == 5
    np.testing.assert_allclose(decoded(made), images.pixels[:, 0, 0], atol=10)


def test_pictures_become_smaller_and_then_fewer():
    noise = np.random.default_rng(0).integers(0, 256, (300, 100, 100, 3), np.uint8)
    found = [
        sprites.sprites(noise, np.arange(300), limit=limit) for limit in (10**7, 10**6, 5 * 10**4, 3 * 10**4)
    ]
    assert [made.side for made in found] == [96, 64, 32, 32]
    assert [made.held == 300 for made in found] == [True, True, False, False]
    for limit, made in zip((10**7, 10**6, 5 * 10**4, 3 * 10**4), found, strict=True):
        assert sum(len(sheet) for sheet in made.sheets) * 3 / 4 < 1.1 * limit
    assert 30 < found[3].held < found[2].held


def test_one_image_has_no_nearest():
    assert classes.nearest_images(np.ones((1, 3)), np.zeros(1, int)).tolist() == [classes.ALONE]
