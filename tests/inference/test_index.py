"""Search among embeddings: exact against float64 loops, saved and loaded, and queries of another model refused."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from jaxml import config
from jaxml.data import ImageError
from jaxml.inference import Index
from jaxml.inference.model import Model


def brute_force(names, embeddings, query, k):
    """The k nearest by plain float64 loops, as (distance, place, name)."""
    found = []
    for place, (name, row) in enumerate(zip(names, embeddings, strict=True)):
        distance = sum((float(a) - float(b)) ** 2 for a, b in zip(row, query, strict=True)) ** 0.5
        found.append((distance, place, name))
    return sorted(found)[:k]


@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
@pytest.mark.parametrize("offset", [0, 30])
@pytest.mark.parametrize("many", [False, True])
def test_search_is_exact(scale, offset, many, monkeypatch):
    """Of few queries on the host, and of many on the devices; among pictures that were added in two parts."""
    monkeypatch.setattr("jaxml.inference.index.LARGE", 1 if many else 10**6)
    rng = np.random.default_rng(0)
    embeddings = (scale * (rng.normal(size=(80, 5)) + offset)).astype(np.float32)
    # Copies, and neighbours that a product in float32 cannot tell apart.
    embeddings[40:60] = embeddings[:20]
    embeddings[60:70] = np.nextafter(embeddings[:10], np.float32(np.inf))
    names = [f"{i:03d}" for i in rng.permutation(80)]
    index = Index(names[:30], embeddings[:30], "model")
    index._grow(names[30:], embeddings[30:])
    queries = np.concatenate(
        [embeddings[:30], (scale * (rng.normal(size=(5, 5)) + offset)).astype(np.float32)]
    )
    for k in (1, 4, 80):
        found = index.search(queries, k)
        for i, query in enumerate(queries):
            expected = brute_force(names, embeddings, query, k)
            np.testing.assert_allclose(found.distances[i], [d for d, _, _ in expected], rtol=1e-6)
            assert found.names[i] == [name for _, _, name in expected]
            assert [index.names[row] for row in found.rows[i]] == found.names[i]


def test_more_than_there_are(model):
    index = Index(["a", "b"], np.eye(2), "model")
    assert index.search(np.array([1.0, 0.1]), k=9).names == [["a", "b"]]
    assert index.search(np.zeros(2), k=1).names == [["a"]]  # both are equally near
    for k in (0, -1, 1.5):
        with pytest.raises(ValueError, match="k must be"):
            index.search(np.zeros(2), k)


@pytest.fixture
def folder(trained, tmp_path):
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    for i, pixels in enumerate(trained[1][:12]):
        Image.fromarray(pixels).save(root / (f"sub/{i:02d}.png" if i % 2 else f"{i:02d}.png"))
    return root


def test_a_folder_becomes_an_index(trained, model, folder):
    (folder / "notes.txt").write_text("no picture")
    with pytest.warns(
        UserWarning, match=r"1 files left out of the index: image notes\.txt cannot be decoded"
    ):
        index = model.index(folder)
    assert len(index) == 12
    assert index.names == sorted(index.names)
    assert set(index.left_out) == {"notes.txt"}
    for query in (folder / "04.png", trained[1][4], model.embed(trained[1][4])[0]):
        found = index.search(query, 3)
        assert found.names[0][0] == "04.png"
        assert found.distances[0, 0] < 1e-6
    several = index.search([folder / "04.png", folder / "sub/05.png"], 2)
    assert [names[0] for names in several.names] == ["04.png", "sub/05.png"]


def test_saved_and_loaded(trained, model, folder, tmp_path):
    index = model.index(folder)
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index", model)
    assert loaded.names == index.names
    assert np.array_equal(loaded.embeddings, index.embeddings)
    assert loaded.root == str(folder)
    query = trained[1][20:23]
    assert loaded.search(query, 4).names == index.search(query, 4).names
    assert isinstance(loaded.embeddings.base, np.memmap)
    index.save(tmp_path / "index")  # takes the earlier one's place
    assert len([*(tmp_path / "index").glob("*.npy")]) == 1


def test_only_what_was_added_is_written(trained, model, folder, tmp_path):
    place = tmp_path / "index"
    model.index(folder).save(place)
    first = {path.name: path.stat().st_mtime_ns for path in place.iterdir()}
    index = Index.load(place, model)
    for rows in (slice(20, 22), slice(22, 23)):
        index.add(trained[1][rows])
        index.save(place)
        index.save(place)  # nothing is left to write
    kept = {path.name: path.stat().st_mtime_ns for path in place.iterdir() if path.name in first}
    assert [name for name in first if kept[name] != first[name]] == ["index.json"]
    assert len(kept) + 2 * 2 == len([*place.iterdir()])
    again = Index.load(place, model)
    assert again.names == index.names
    assert len(again) == 15
    assert np.array_equal(again.embeddings, index.embeddings)
    assert again.search(trained[1][22], 1).names == [["picture 14"]]
    again.save(tmp_path / "whole")
    assert np.array_equal(Index.load(tmp_path / "whole").embeddings, again.embeddings)


def test_two_that_add_do_not_lose_what_the_other_added(trained, model, folder, tmp_path):
    place = tmp_path / "index"
    model.index(folder).save(place)
    one, other = Index.load(place, model), Index.load(place, model)
    one.add(trained[1][20])
    one.save(place)
    other.add(trained[1][21])
    with pytest.raises(ValueError, match="index has been changed by another process: load the index again"):
        other.save(place)
    assert Index.load(place).names == one.names


def test_files_that_a_stop_left_count_for_nothing(trained, model, folder, tmp_path, monkeypatch):
    place = tmp_path / "index"
    model.index(folder).save(place)
    index = Index.load(place, model)
    index.add(trained[1][20])
    with monkeypatch.context() as patch:
        patch.setattr("jaxml.inference.index_folder.write_json", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index.save(place)
    assert len(Index.load(place)) == 12
    index.save(place)
    assert len(Index.load(place)) == 13


def test_pictures_are_added(trained, model, folder):
    index = model.index(folder)
    index.add(trained[1][20:22])
    assert len(index) == 14
    assert index.names[:12] == sorted(index.names[:12])
    assert index.search(trained[1][21], 1).names == [["picture 13"]]
    expected = model.index([*sorted(folder.rglob("*.png"))])
    assert len(expected) == 12
    with pytest.raises(ValueError, match=r"01\.png is given twice"):
        expected.add(folder / "sub/01.png")
    with pytest.raises(ImageError, match="gone"):
        index.add(folder / "gone.png")
    assert len(index) == 14
    with pytest.raises(ValueError, match=r"00\.png is given twice"):
        model.index([folder / "00.png", folder / "00.png"])


def test_another_model_is_refused(trained, model, folder, tmp_path):
    model.index(folder).save(tmp_path / "index")
    other = Model(config.override(model.config, {"eval.mirror": False}), model.variables, {})
    with pytest.raises(
        ValueError, match=r"made by another model, whose fingerprint is .* and not .*: load that model"
    ):
        Index.load(tmp_path / "index", other)
    alone = Index.load(tmp_path / "index")
    with pytest.raises(ValueError, match=r"loaded without its model.*Index\.load\(folder, model\)"):
        alone.search(trained[1][0])
    with pytest.raises(ValueError, match="loaded without its model"):
        alone.add(trained[1][0])
    with pytest.raises(ValueError, match="query has embeddings of 9 numbers, and those of this index have 8"):
        alone.search(np.zeros(9))
    assert len(alone.search(model.embed(trained[1][0])[0], 5).names[0]) == 5


def test_a_damaged_index_is_refused(model, folder, tmp_path):
    place = tmp_path / "index"
    model.index(folder).save(place)
    head = place / "index.json"
    content = json.loads(head.read_text())
    names, embeddings = (place / content["parts"][0][key] for key in ("names", "embeddings"))
    for path in (names, embeddings):
        data = path.read_bytes()
        path.write_bytes(data[:-2] + b"xx")
        with pytest.raises(ValueError, match=r"index is damaged: .* are not as they were written"):
            Index.load(place)
        path.unlink()
        with pytest.raises(ValueError, match=r"index is damaged: .*No such file"):
            Index.load(place)
        path.write_bytes(data)
    assert len(Index.load(place)) == 12
    head.write_text(json.dumps({**content, "format": 1}))
    with pytest.raises(ValueError, match="index is damaged: its format is 1 and not 2; make the index again"):
        Index.load(place)
    head.write_text(json.dumps({**content, "parts": []}))
    with pytest.raises(ValueError, match="index is damaged: it has no parts; make the index again"):
        Index.load(place)
    del content["parts"]
    head.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="index is damaged: 'parts'"):
        Index.load(place)
    with pytest.raises(
        ValueError, match=r"holds no index: there is no index\.json\. Make one with model\.index"
    ):
        Index.load(folder)


def test_a_folder_without_pictures_is_refused(model, tmp_path):
    (tmp_path / "a.txt").write_text("no picture")
    with pytest.raises(ImageError, match=r"^image a\.txt cannot be decoded"):
        model.index(tmp_path)
    (tmp_path / "b.txt").write_text("no picture")
    with pytest.raises(ImageError, match=r"^none of the 2 files can be read: image a\.txt cannot be decoded"):
        model.index(tmp_path)


def test_an_approximate_search_finds_most(tmp_path):
    """Its distances and their order are exact; it goes on from the graph that was kept, and from a part of it."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 8))
    x = (centres[rng.integers(0, 50, 3000)] + 0.3 * rng.normal(size=(3000, 8))).astype(np.float32)
    queries = x[::100] + np.float32(0.01)
    index = Index([f"{i}" for i in range(2000)], x[:2000], "model")
    index.save(tmp_path / "index")
    for count in (2000, 3000):
        exact = index.search(queries, 10)
        near = index.search(queries, 10, approximate=True)
        shared = [len({*a} & {*b}) for a, b in zip(exact.names, near.names, strict=True)]
        assert np.mean(shared) > 9
        for i, query in enumerate(queries):
            found = np.linalg.norm(x[near.rows[i]].astype(np.float64) - query, axis=1)
            np.testing.assert_allclose(near.distances[i], found, rtol=1e-6)
            assert (np.diff(near.distances[i]) >= 0).all()
        index.save(tmp_path / "index")
        assert len([*(tmp_path / "index").glob("*.graph")]) == 1
        index = Index.load(tmp_path / "index")
        assert index.search(queries, 10, approximate=True).names == near.names
        if count == 2000:
            index._grow([f"{i}" for i in range(2000, 3000)], x[2000:])


def test_a_damaged_graph_is_named(tmp_path):
    index = Index(["a", "b"], np.eye(2), "model")
    index.search(np.zeros(2), approximate=True)
    index.save(tmp_path / "index")
    (graph,) = (tmp_path / "index").glob("*.graph")
    graph.write_bytes(b"no graph at all")
    with pytest.raises(
        ValueError, match=r"\.graph holds no graph of embeddings of 2 numbers: remove it, and"
    ):
        Index.load(tmp_path / "index").search(np.zeros(2), approximate=True)
    graph.unlink()
    assert len(Index.load(tmp_path / "index").search(np.zeros(2), approximate=True).names[0]) == 2


def test_an_approximate_search_needs_usearch(monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(ImportError, match=r"needs usearch: `pip install jaxml\[approximate\]`"):
        Index(["a", "b"], np.eye(2), "model").search(np.zeros(2), approximate=True)
