"""The report of a run: self-contained, escaped, correct about mistakes, and complete in degenerate cases."""

import html.parser
import json
import re

import numpy as np
import pytest

from jaxml import config
from jaxml.evaluation import clustering as evaluate
from jaxml.evaluation import metrics
from jaxml.reports import page
from jaxml.reports import run as report

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Elements with attributes, in order; complains about tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text, self.scripts = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if "script" in self.open else self.text).append(data)

    @property
    def data(self):
        """What the scripts are given."""
        return json.loads(self.scripts[0])

    def count(self, **attributes):
        return sum(attributes.items() <= a.items() for _, a in self.elements)

    def titled(self, start):
        """Text from a heading up to the next section's end."""
        text = "\n".join(self.text)
        return text[text.index(start) :]


def inputs(classes=4, per_class=8, noise=0.6, source="glyphs", split="poster", seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes) + 2, per_class).astype(np.int32)
    embeddings = rng.normal(size=(classes, 6))[labels - 2] + noise * rng.normal(size=(len(labels), 6))
    return {
        "config": config.to_dict(config.Config(data=config.Data(source=source, split=split))),
        "history": [
            {"step": s, "loss": 1 / s, "active_share": 0.5, "images_per_second": 100.0}
            for s in range(10, 90, 10)
        ]
        + [{"step": 40, "val_nmi": 0.31}, {"step": 80, "val_nmi": 0.42}],
        "results": evaluate.evaluate(embeddings, labels, kmeans_seeds=2),
        "embeddings": embeddings,
        "labels": labels,
        "images": rng.integers(0, 256, (len(labels), 20, 20, 3), np.uint8),
        "class_names": tuple(f"{i:03d}.Class_{chr(65 + i)}" for i in range(classes + 2)),
        "files": [f"{label}/{row}.jpg" for row, label in enumerate(labels)],
    }


def written(tmp_path, **values):
    path = tmp_path / "report.html"
    report.write(path, **values)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_self_contained_and_complete(tmp_path):
    values = inputs()
    text, parsed = written(tmp_path, **values, baselines=[("raw pixels", {"nmi": 0.111, "nmi_std": 0.01})])
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "iframe", "base", "object")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            if name in attributes:
                assert re.match(r"data:image/|#", attributes[name]), (tag, attributes[name])
    assert not re.search(r"@import|url\((?!#)|\bimport\b|fetch\(|XMLHttpRequest", text)
    scripts = [attributes for tag, attributes in parsed.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {"type": "module"}]
    shown = parsed.titled("Metrics")
    for name in ("nmi", "ari", "f1", "map@r"):
        assert f"{values['results'][name]:.3f}" in shown
    assert "0.111" in shown
    assert "0.420 at step 80" in shown
    for section, options in values["config"].items():
        assert section in shown
        assert options.keys() <= {s.strip() for s in parsed.text}
    assert "raw pixels 0.111" in "".join(parsed.text)


def test_classes_that_the_weights_had_learned_are_stated(tmp_path):
    values = inputs()
    text, _ = written(tmp_path, **values)
    assert "had learned" not in text
    _, parsed = written(tmp_path, **values, seen=[f"00{i}.Class_<{i}>" for i in range(7)])
    names = ", ".join(f"Class <{i}>" for i in range(5))
    assert (
        f"none of which was trained on. But networks that training began with or learned from had learned 7 of them "
        f"({names}, ...)." in (" ".join(parsed.text))
    )


def test_frames_agree_with_labels(tmp_path):
    values = inputs(classes=6, noise=1.0)
    text, parsed = written(tmp_path, **values)
    labels = values["labels"]
    rows = re.findall(r'<div class="row">(.*?)</div></div>', text, re.DOTALL)
    assert len(rows) == 6
    right = wrong = 0
    for row in rows:
        figure = r'<figure class="picture (\w+)">.*?src="([^"]+)".*?<b>([^<]+)</b>'
        (kind, source, asked), *found = re.findall(figure, row)
        assert kind == "query"
        q = next(i for i in range(len(labels)) if page.data_uri(values["images"][i]) == source)
        assert report.readable(values["class_names"][labels[q]]) == asked
        order = np.linalg.norm(values["embeddings"] - values["embeddings"][[q]], axis=1).argsort()[1:11]
        assert [s for _, s, _ in found] == [page.data_uri(values["images"][i]) for i in order]
        assert [n for _, _, n in found] == [report.readable(values["class_names"][labels[i]]) for i in order]
        assert [k for k, _, _ in found] == ["right" if labels[i] == labels[q] else "wrong" for i in order]
        right += sum(k == "right" for k, _, _ in found)
        wrong += sum(k == "wrong" for k, _, _ in found)
    assert right > 5
    assert wrong > 5
    assert text.count("✓</span>") == right
    assert parsed.count(**{"aria-label": "right"}) == right


def test_class_map_shows_every_class_once_and_its_most_central_picture(tmp_path):
    values = inputs(classes=23, per_class=5)
    text, _ = written(tmp_path, **values)
    block = text[text.index("<h2>Map of the classes") : text.index("<h2>Nearest pictures")]
    shown = re.findall(r'<img src="([^"]*)" alt="([^"]*)"', block)
    assert sorted(name for _, name in shown) == sorted(
        {report.readable(n) for n in values["class_names"][2:]}
    )
    for source, name in shown:
        own = np.flatnonzero(values["labels"] == ord(name[-1]) - 65)
        x = values["embeddings"][own]
        distances = [sum((u - x[:, j].mean()) ** 2 for j, u in enumerate(row)) for row in x]
        assert source == page.data_uri(values["images"][own[int(np.argmin(distances))]])


def test_the_value_for_scripts_stands_in_the_page(tmp_path):
    values = inputs(classes=3, noise=0.01)
    clusters = values["labels"] * 10
    clusters[0] = 30  # one image of class C among those of class D
    _, parsed = written(tmp_path, **values, clusters=clusters)
    assert "1 of 24 images\n(4%) are in a cluster" in "".join(parsed.text)
    assert parsed.data["misplaced"] == 1
    assert parsed.data["classes"]["name"] == ["Class C", "Class D", "Class E"]
    assert sorted(parsed.data["images"]["file"]) == sorted(values["files"])


def test_default_clusters_are_those_evaluated(tmp_path):
    values = inputs(noise=2.0)
    _, parsed = written(tmp_path, **values)
    wrong = np.sum(
        metrics.majority_class(evaluate.cluster(values["embeddings"], 4), values["labels"])
        != values["labels"]
    )
    assert wrong > 0
    assert f"{wrong} of 32 images" in "".join(parsed.text)
    assert parsed.data["misplaced"] == wrong


def test_published_rows_for_cub_only(tmp_path):
    _, parsed = written(tmp_path, **inputs(source="cub", split="standard"))
    shown = "".join(parsed.text)
    assert shown.count("Shah 2017: ") == 9
    assert "lifted structure" in shown
    assert "other classes" not in shown
    assert "uses labels" in shown
    _, parsed = written(tmp_path, **inputs(source="cub", split="poster"))
    assert "other classes" in "".join(parsed.text)
    _, parsed = written(tmp_path, **inputs(source="folder"))
    for word in ("Shah 2017", "published", "uses labels", "original"):
        assert word not in "".join(parsed.text)


def test_everything_is_escaped(tmp_path):
    values = inputs()
    evil = '<script>alert("&")</script>'
    values["class_names"] = tuple(f"{evil}{i}" for i in range(6))
    values["config"]["data"]["root"] = evil
    values["config"]["data"]["source"] = evil
    values["config"]["loss"]["options"] = {evil: evil}
    values["files"] = [f"{evil}{row}" for row in range(len(values["labels"]))]
    text, parsed = written(tmp_path, **values, baselines=[(evil, values["results"])], split=evil)
    assert "<script>" not in text
    assert [tag for tag, _ in parsed.elements].count("script") == text.count("<script") == 2
    assert text.count("</script") == 2
    assert parsed.data["classes"]["name"] == [f"{evil}{i}" for i in range(2, 6)]
    assert set(parsed.data["images"]["file"]) == set(values["files"])
    assert parsed.count() == len(parsed.elements)
    assert any(a.get("alt") == f"{evil}3" for _, a in parsed.elements)


def test_names_that_are_no_text_are_shown(tmp_path):
    values = inputs()
    hostile = ("caf\udce9", "a\x1b[2Jb", "a\nb", "\u202egpj")
    values["class_names"] = (*hostile, *values["class_names"][4:])
    values["labels"] = values["labels"] - 2
    values["files"] = [f"{hostile[row % 4]}{row}" for row in range(len(values["labels"]))]
    values["config"]["data"]["root"] = "/data/\udcff\x1b"
    text, parsed = written(tmp_path, **values)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\ud800-\udfff]", text)
    shown = {attributes["alt"] for _, attributes in parsed.elements if "alt" in attributes}
    visible = [r"caf\udce9", r"a\x1b[2Jb", r"a\nb", r"\u202egpj"]
    assert set(visible) <= shown
    assert set(parsed.data["classes"]["name"]) == set(visible)
    assert set(parsed.data["images"]["file"]) == {f"{visible[row % 4]}{row}" for row in range(32)}


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"step": 1, "loss": 0.5, "active_share": 1.0}],
        [{"step": 1, "val_nmi": 0.5}],
        [{"step": s, "loss": float("nan")} for s in range(3)],
        [{"step": s, "loss": 1e9 * s, "active_share": 0.0, "val_nmi": 0.0} for s in range(2000)],
    ],
    ids=["empty", "one row", "validation only", "not finite", "long"],
)
def test_histories(tmp_path, history):
    text, parsed = written(tmp_path, **inputs() | {"history": history})
    assert len(re.findall(r"<figure><svg", text)) == 3
    empty = sum(
        not any(np.isfinite(row.get(k, np.nan)) for row in history)
        for k in ("loss", "active_share", "val_nmi")
    )
    assert "".join(parsed.text).count("not recorded") == empty
    assert len(text) < 2e6
    assert ("mean of 100 in a row" in text) == (len(history) == 2000)
    assert "loss of a batch" in text


@pytest.mark.parametrize(
    ("classes", "per_class", "noise"), [(1, 1, 1.0), (3, 1, 1.0), (1, 5, 1.0), (2, 3, 0.0), (2, 40, 0.0)]
)
def test_degenerate_splits(tmp_path, classes, per_class, noise):
    """One image, all singletons, one class, and images on top of each other."""
    text, parsed = written(tmp_path, **inputs(classes, per_class, noise))
    assert ("nothing to find" in text) == (per_class == 1)
    shown = re.sub(r'base64,[^"]+', "", text).lower()
    assert "nan" not in shown[: shown.index("<script")]
    assert parsed.count(**{"class": "row"}) == (classes if per_class > 1 else 0)


def test_large_report_stays_small(tmp_path):
    """1,600 noise pictures of 160 pixels, which JPEG cannot compress well."""
    values = inputs(classes=40, per_class=40)
    values["images"] = np.random.default_rng(0).integers(0, 256, (1600, 160, 160, 3), np.uint8)
    text, parsed = written(tmp_path, **values)
    assert 200e3 < len(text) < 10e6
    assert parsed.count(**{"class": "row"}) == 10
    assert parsed.data["sprites"]["held"] == 1600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(3, np.int32)}, "one length"),
        ({"images": np.zeros((32, 8, 8, 3), np.float32)}, "uint8"),
        ({"class_names": ("a", "b", "c")}, "3 names"),
        ({"files": ["a.jpg"]}, "32 and 1$"),
    ],
)
def test_bad_input(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        report.write(tmp_path / "report.html", **inputs() | change)
    assert not (tmp_path / "report.html").exists()


def test_readable_names():
    assert report.readable("001.Black_footed_Albatross") == "Black footed Albatross"
    assert report.readable("3.14") == "3.14"
    assert report.readable("_") == "_"
    assert report.readable("Ä") == "Ä"
