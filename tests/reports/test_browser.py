"""Pages in headless Chromium: no error of a script, nothing that sticks out, and controls that do what they say."""

import csv
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxml import config
from jaxml.data.sources.unlabelled import Pictures
from jaxml.evaluation.grouping import Groups
from jaxml.files import printable
from jaxml.reports import clusters as gallery
from jaxml.reports import run as report

pytestmark = pytest.mark.slow
EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
SIZES = {"desk": (1280, 900, "light"), "tablet": (800, 1000, "dark"), "phone": (360, 740, "dark")}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.fail("this test needs Chromium: install it, or name its program in the variable CHROMIUM")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture
def opened(browser):
    """Opens a file at a size; afterwards no script may have had an error, and no dialog may have opened."""
    said, pages = [], []

    def at(path, size="desk"):
        width, height, scheme = SIZES[size]
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.accept()))
        page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or said.append(r.url))
        page.goto(path.as_uri())
        return page

    yield at
    for page in pages:
        page.close()
    assert said == []


def inputs(classes, each, side=24):
    """A run with hostile names; the last image of each class lies among those of another."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    embeddings = 3 * rng.normal(size=(classes, 8))[labels] + 0.3 * rng.normal(size=(len(labels), 8))
    last = np.arange(len(labels)) % each == each - 1
    embeddings[last] = np.roll(embeddings[last], 1, axis=0)
    pixels = rng.integers(0, 256, (len(labels), 1, 1, 3), np.uint8)
    return {
        "config": config.to_dict(config.Config()),
        "history": [{"step": step, "loss": 1 / step, "active_share": 0.5} for step in range(1, 200)],
        "results": {"nmi": 0.5},
        "embeddings": embeddings.astype(np.float32),
        "labels": labels,
        "images": np.broadcast_to(pixels, (len(labels), side, side, 3)).copy(),
        "class_names": [
            f"Class {label} {EVIL}" if label < 3 else f"Class {label}" for label in range(classes)
        ],
        "files": [f"{label}/{row} {EVIL}.jpg" for row, label in enumerate(labels)],
        "clusters": (labels + last) % classes,
    }


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    path = tmp_path_factory.mktemp("twelve") / "report.html"
    report.write(path, **inputs(12, 10))
    return path


def sticks_out(page):
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize(("classes", "each"), [(2, 3), (100, 40), (11_000, 1), (5500, 2)])
def test_any_number_of_classes_fits_every_screen(tmp_path, opened, classes, each):
    path = tmp_path / "report.html"
    report.write(path, **inputs(classes, each))
    assert path.stat().st_size < 10e6
    for size in SIZES:
        page = opened(path, size)
        page.wait_for_function("document.getElementById('map-state').textContent.includes('zoom')")
        assert sticks_out(page) <= 0
        shown = page.locator("#classes tbody tr").count()
        assert shown == min(classes, 15)


@pytest.mark.parametrize("size", SIZES)
def test_no_control_covers_another(twelve, opened, size):
    page = opened(twelve, size)
    boxes = page.evaluate(
        """[...document.querySelectorAll("button, input, select, #map")].map((shown) => shown.getBoundingClientRect())
        .filter((box) => box.width).map((box) => [box.left, box.top, box.right, box.bottom])"""
    )
    assert len(boxes) > 50
    a = np.array(boxes)
    low, high = np.maximum(a[:, None, :2], a[None, :, :2]), np.minimum(a[:, None, 2:], a[None, :, 2:])
    covers = ((high - low) > 1).all(-1) & ~np.eye(len(a), dtype=bool)
    assert not covers.any()


def test_map_zooms_finds_and_shows_classes(twelve, opened):
    page = opened(twelve)
    canvas, tip = page.locator("#map"), page.locator("#map-tip")
    canvas.scroll_into_view_if_needed()
    page.wait_for_function(
        "document.getElementById('map-state').textContent.startsWith('120 images, zoom 1.0')"
    )
    box = canvas.bounding_box()
    before = canvas.screenshot()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -600)
    page.wait_for_function("!document.getElementById('map-state').textContent.includes('zoom 1.0')")
    assert canvas.screenshot() != before
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function(
        "document.getElementById('map-state').textContent.startsWith('120 images, zoom 1.0')"
    )
    # The keyboard goes from image to image; each shows its name.
    canvas.press("ArrowRight")
    first = tip.inner_text()
    assert f" {EVIL}.jpg" in first
    canvas.press("ArrowLeft")
    page.wait_for_function("(before) => document.getElementById('map-tip').innerText !== before", arg=first)
    canvas.press("Escape")
    tip.wait_for(state="hidden")
    # The search counts what it finds, and brings it into view; the mouse finds the only one in the middle.
    page.fill("#map-search", "5/57 ")
    page.wait_for_function("document.getElementById('map-state').textContent.includes(', 1 found')")
    page.press("#map-search", "Enter")
    page.wait_for_function("document.getElementById('map-state').textContent.includes('zoom 12.0')")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip.wait_for(state="visible")
    assert f"5/57 {EVIL}.jpg" in tip.inner_text()
    page.fill("#map-search", "")
    # One class, by its button and by its name.
    page.locator(".chip", has_text="Class 2").click()
    page.wait_for_function(
        "document.getElementById('map-state').textContent.startsWith('10 images, of 1 class')"
    )
    page.fill("#map-class", "class 11")
    page.press("#map-class", "Enter")
    page.wait_for_function(
        "document.getElementById('map-state').textContent.startsWith('10 images, of 1 class')"
    )
    assert page.locator(".chip[aria-pressed=true]").inner_text() == "Class 11"


def test_tables_sort_and_find(twelve, opened):
    page = opened(twelve)
    names = page.locator("#classes tbody tr td:first-child")
    page.locator("#classes th button", has_text="Class").click()
    assert [name.split()[1] for name in names.all_inner_texts()] == [str(label) for label in range(12)]
    page.locator("#classes th button", has_text="Class").click()
    assert [name.split()[1] for name in names.all_inner_texts()] == [
        str(label) for label in range(11, -1, -1)
    ]
    page.fill("#classes-search", "class 1")
    assert sorted(name.split()[1] for name in names.all_inner_texts()) == ["1", "10", "11"]
    assert names.first.inner_text().startswith("Class 1")
    pairs = page.locator("#pairs tbody tr")
    assert pairs.count() == 15
    page.locator("#pairs tbody button").first.click()
    page.wait_for_function(
        "document.getElementById('map-state').textContent.startsWith('20 images, of 2 classes')"
    )


def test_all_mistakes_are_listed_page_by_page(tmp_path, opened):
    values = inputs(12, 10)
    x, labels = values["embeddings"], values["labels"]
    nearest = (((x[:, None] - x[None, :]) ** 2).sum(-1) + 1e6 * np.eye(120)).argmin(1)
    values["clusters"] = np.where(np.arange(120) % 10 < 6, labels, (labels + 1) % 12)
    report.write(tmp_path / "report.html", **values)
    page = opened(tmp_path / "report.html")
    on = page.locator("#mistakes").get_by_role("button", name="Next")

    def listed():
        names = page.locator("#mistakes-cards .card figure:first-child .file").all_inner_texts()
        if on.is_disabled():
            return names
        on.click()
        return names + listed()

    seen = listed()
    assert sorted(seen) == sorted(name for row, name in enumerate(values["files"]) if row % 10 >= 6)
    page.select_option("#mistakes-kind", "nearest")
    seen = listed()
    misled = [name for row, name in enumerate(values["files"]) if labels[nearest[row]] != labels[row]]
    assert len(misled) > 12
    assert sorted(seen) == sorted(misled)
    page.fill("#mistakes-search", "7/79 ")
    assert page.locator("#mistakes-cards .card").count() == 1


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    """A folder of results: 30 pictures under hostile names in 3 clusters."""
    root, rng = tmp_path_factory.mktemp("clustered"), np.random.default_rng(0)
    names = ["=1+1.png", 'a,"b".png', "<b>\n.png", *(f"{i} &.png" for i in range(27))]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(root / name)
    number, distance = np.repeat([0, 1, 2], [18, 10, 2]), rng.uniform(size=30)
    groups = Groups(number, distance.astype(np.float32), (number + 1) % 3, distance[::-1].astype(np.float32))
    gallery.write(root / "out", Pictures(root, tuple(names)), groups, errors={}, choice="Given.")
    return root / "out"


@pytest.mark.parametrize("size", SIZES)
def test_pictures_move_to_other_clusters_and_the_table_is_saved(clustered, opened, size, tmp_path):
    page = opened(clustered / "clusters.html", size)
    assert sticks_out(page) <= 0
    with open(clustered / "clusters.csv", newline="", encoding="utf-8") as file:
        lines = file.read().splitlines(keepends=True)
    rows = list(csv.reader(lines))
    for link in page.locator(".cluster a").all():
        assert (clustered / link.get_attribute("href")).is_file()
    # A doubtful picture of cluster 1, and two of all in cluster 2, of which one goes on to a new cluster.
    doubtful = page.locator("#cluster-1 .strip").nth(1).locator("figure").first
    first = doubtful.locator("b").inner_text()
    doubtful.locator("input").check()
    page.fill("#target", "3")
    page.get_by_role("button", name="Move").click()
    page.locator("#cluster-2 summary").click()
    tiles = page.locator("#cluster-2 .all figure")
    tiles.first.wait_for()
    assert tiles.count() == 10
    second, third = (tiles.nth(i).locator("b").inner_text() for i in (4, 7))
    for tile in (4, 7):
        tiles.nth(tile).locator("input").check()
    page.get_by_role("button", name="Move").click()
    tiles.nth(7).locator("input").check()
    page.fill("#target", "9")
    page.get_by_role("button", name="Move").click()
    assert "1 picture chosen, 3 moved." in page.locator("#bar").inner_text(), "cluster 9 would leave a gap"
    page.fill("#target", "4")
    page.get_by_role("button", name="Move").click()
    assert "→ cluster 4" in tiles.nth(7).inner_text()
    assert sticks_out(page) <= 0
    with page.expect_download() as download:
        page.get_by_role("button", name="Save corrected table").click()
    download.value.save_as(tmp_path / "corrected.csv")
    with open(tmp_path / "corrected.csv", newline="", encoding="utf-8") as file:
        saved = file.read().splitlines(keepends=True)
    kept = [line for line, row in zip(lines, rows, strict=True) if row[0] not in (first, second, third)]
    gone = [[name, cluster, "", "", ""] for name, cluster in ((first, "3"), (second, "3"), (third, "4"))]
    assert [row for row in csv.reader(saved) if row[2] == ""] == gone
    assert [line for line, row in zip(saved, csv.reader(saved), strict=True) if row[2]] == kept
    assert [row[1] for row in csv.reader(saved)][1:] == sorted(row[1] for row in csv.reader(saved[1:]))
    assert {row[0] for row in csv.reader(saved)} == {row[0] for row in rows}
    assert {"'=1+1.png", 'a,"b".png', printable("<b>\n.png")} <= {row[0] for row in csv.reader(saved)}


def test_moves_are_undone(clustered, opened):
    page = opened(clustered / "clusters.html")
    page.locator("#cluster-3 figure input").first.check()
    page.fill("#target", "1")
    page.get_by_role("button", name="Move").click()
    page.get_by_role("button", name="Undo").click()
    page.locator("#bar").wait_for(state="hidden")
    page.locator("#cluster-3 figure input").first.check()
    assert page.get_by_role("button", name="Save corrected table").is_disabled()
