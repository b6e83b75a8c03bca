"""A run that begins with the weights of another run, or of a network saved of it."""
# ruff: noqa: F811 (fixtures)

import json
import shutil
import warnings
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

import jaxml
from jaxml import config as configs
from jaxml.inference import card
from jaxml.models.weights.readers import WeightFormatError
from jaxml.training import learner, results, run, start, train
from jaxml.training.seen import learned, seen_classes
from jaxml.training.weights import load_weights
from tests.training.test_run import (
    Stop,
    StopAt,
    assert_same_run,
    config,  # noqa: F401
    pictures,  # noqa: F401
    rows,
    small,
    untrained,
)


def with_model(config, **values):
    return replace(config, model=replace(config.model, **values))


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    config = small(pictures, root / "cache")
    train.learn(replace(config, train=replace(config.train, ema=0.9)), root / "run")
    return root / "run"


@pytest.fixture
def first(trained, tmp_path):
    """The directory of a run that has averages, and BatchNorm statistics that have moved."""
    return shutil.copytree(trained, tmp_path / "first")


@pytest.fixture
def second(config, first):
    """The configuration of a run that goes on from it."""
    return with_model(configs.load(first / "config.json"), weights=str(first))


def test_a_run_begins_with_the_best_averages_of_another(first, second, tmp_path, capsys):
    expected = run.load(first)
    params, stats = expected.state.network
    second = replace(second, train=replace(second.train, ema=0.5))
    found = train.train(second, tmp_path / "second", callbacks=[begins := Begins()])
    assert jax.tree.all(jax.tree.map(np.array_equal, begins.state.params, params))
    assert jax.tree.all(jax.tree.map(np.array_equal, begins.state.batch_stats, stats))
    assert jax.tree.all(jax.tree.map(np.array_equal, begins.state.averages["params"], params))
    assert not jax.tree.all(jax.tree.map(np.array_equal, expected.state.params, params)), "no averages"
    step = int(expected.state.step)
    assert f"weights: {first}, step {step}: backbone taken, head taken\n" in capsys.readouterr().out
    report = json.loads((tmp_path / "second/weights.json").read_text())
    assert (report["source"], report["step"], report["fresh"]) == (str(first), step, [])
    assert report["loaded"] == sum(x.size for x in jax.tree.leaves((params, stats)))
    assert "frozen features" in found["baselines"]
    assert jaxml.load(tmp_path / "second").about["weights"]["source"] == "first"


class Begins(train.Callback):
    """Keeps the state before the first step."""

    def on_begin(self, run):
        self.state = jax.device_get(jax.tree.map(lambda x: x, run.state))


def test_a_saved_network_gives_the_same_as_its_run(first, second, tmp_path):
    jaxml.load(first).save(tmp_path / "saved")
    found = [
        load_weights(with_model(second, weights=str(folder)), learner.create(second, 5)[1])
        for folder in (first, tmp_path / "saved")
    ]
    assert jax.tree.all(jax.tree.map(np.array_equal, found[0][0], found[1][0]))
    reports = [{**report, "source": ""} for _, report in found]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("changed", "fresh"),
    [
        pytest.param({"feature_size": 9}, ["head/bias", "head/kernel"], marks=pytest.mark.slow),
        ({"head": "conv", "pooling": "gem"}, ["head/bias", "head/kernel", "pooling/p"]),
        ({"dropout": 0.5, "pooling": "avg+max"}, []),
    ],
)
def test_what_does_not_fit_stays_fresh(config, tmp_path, changed, fresh):
    spatial = with_model(
        replace(config, data=replace(config.data, size=48)), backbone="squeezenet1_1", feature_size=8
    )
    untrained(spatial, tmp_path / "first", [3])
    other = with_model(spatial, weights=str(tmp_path / "first"), **changed)
    other = replace(other, train=replace(other.train, seed=1))
    state = learner.create(other, 5)[1]
    loaded, report = load_weights(other, state)
    assert report["fresh"] == fresh
    theirs, own = run.load(tmp_path / "first").state.params, state.params
    for part in loaded.params:
        origin = own if any(name.startswith(part) for name in fresh) else theirs
        assert jax.tree.all(jax.tree.map(np.array_equal, loaded.params[part], origin[part])), part


def test_weights_that_cannot_be_taken(config, tmp_path):
    untrained(config, tmp_path / "first", [3])
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    configs.save(tmp_path / "begun/config.json", config)
    larger = replace(config, data=replace(config.data, size=24))
    other = with_model(replace(config, data=replace(config.data, size=48)), backbone="squeezenet1_1")
    for name, given, error, named in [
        (
            "first",
            other,
            WeightFormatError,
            "first is a network with --model.backbone simple, this one has squeeze",
        ),
        (
            "first",
            larger,
            WeightFormatError,
            "first has a simple of other shapes, for --data.size 20; give the same",
        ),
        (
            "empty",
            config,
            RuntimeError,
            r"empty holds no run: there is no config\.json; give a run that has saved",
        ),
        ("begun", config, RuntimeError, "begun has no checkpoint yet; give a run that has saved"),
    ]:
        with pytest.raises(error, match=f"^--model.weights.*{named}"):
            train.learn(with_model(given, weights=str(tmp_path / name)), tmp_path / "second")
        assert not (tmp_path / "second").exists()


def test_the_path_is_kept_whole_and_the_run_goes_on_from_anywhere(first, second, tmp_path, monkeypatch):
    train.train(second, tmp_path / "whole")
    monkeypatch.chdir(tmp_path)
    relative = with_model(second, weights="first")
    with pytest.raises(Stop):
        train.train(relative, tmp_path / "stopped", callbacks=[StopAt(8)])
    assert configs.load(tmp_path / "stopped/config.json").model.weights == str(first)
    monkeypatch.chdir(tmp_path / "stopped")
    train.train(start.from_anywhere(second), tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert rows(tmp_path / "whole")[0]["loss"] != rows(first)[0]["loss"]


def test_test_classes_that_the_weights_have_learned_are_told(first, second, tmp_path):
    second = replace(second, data=replace(second.data, split="6-9/0-2/3-5"))
    with pytest.warns(UserWarning, match=r"2 of the 3 test classes \(class3, class4\), 16 of whose pictures"):
        train.train(second, tmp_path / "second")
    assert json.loads((tmp_path / "second/seen.json").read_text()) == {
        "classes": ["class3", "class4"],
        "pictures": 16,
    }
    page = (tmp_path / "second/report.html").read_text()
    assert (
        "But networks that training began with or learned from had learned 2 of them (class3, class4)."
        in page
    )
    model = jaxml.load(tmp_path / "second")
    assert "had learned 2 of them" in card.render(model.config, 8, model.about)
    assert "had learned" not in card.render(model.config, 8, jaxml.load(first).about)


def renamed(root, place):
    """The same pictures with other names of classes."""
    for folder in root.iterdir():
        shutil.copytree(folder, place / f"other {folder.name}")


def redrawn(root, place):
    """Other pictures with the same names of classes."""
    shutil.copytree(root, place)
    for path in place.rglob("*.png"):
        Image.open(path).rotate(90).save(path)


def both(root, place):
    redrawn(root, place.parent / "redrawn")
    renamed(place.parent / "redrawn", place)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    ("change", "classes", "copies"),
    [
        (None, ["class3", "class4"], 16),
        (renamed, ["other class3", "other class4"], 16),
        (redrawn, ["class3", "class4"], 0),
        (both, [], 0),
    ],
)
def test_classes_are_known_by_their_names_and_pictures(
    config, pictures, tmp_path, change, classes, copies, saved
):
    untrained(config, tmp_path / "first", [3])
    weights = tmp_path / "first"
    if saved:
        jaxml.load(weights).save(tmp_path / "saved")
        weights = tmp_path / "saved"
    if change:
        change(pictures, tmp_path / "pictures")
        config = replace(config, data=replace(config.data, root=str(tmp_path / "pictures")))
    config = with_model(replace(config, data=replace(config.data, split="6-9/0-2/3-5")), weights=str(weights))
    opened = run.open_run(config, tmp_path / "second")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = seen_classes(config, opened.images, "test", opened.pictures)
    # A saved network has no list of pictures, but knows the whole data set again.
    if saved and change:
        assert found is None
        assert not caught
        return
    assert found == {"classes": classes, "pictures": copies}
    said = [str(warning.message) for warning in caught]
    assert len(said) == bool(classes)
    assert not said or ("from other pictures" in said[0]) == (copies == 0)
    assert seen_classes(config, opened.images, "train", opened.pictures) is None


def test_a_damaged_list_of_pictures_is_named(config, tmp_path):
    untrained(config, tmp_path / "first", [3])
    opened = run.open_run(config, tmp_path / "second")
    (tmp_path / "first/data.jsonl").write_text(f"{opened.pictures.lines[0]}\n[1]\n")
    with pytest.raises(ValueError, match=r"\S+data\.jsonl is damaged"):
        learned(tmp_path / "first", opened.pictures)


def test_a_division_that_the_data_set_states_is_known(config, tmp_path):
    """Of the sixth and the ninth class, which a table says are for training."""
    untrained(config, tmp_path / "first", [3])
    opened = run.open_run(config, tmp_path / "second")
    names, *rows = map(json.loads, opened.pictures.lines)
    rows = [[*row[:4], {5: "train", 8: "train", 1: "val"}.get(row[1], "test")] for row in rows]
    lines = [json.dumps(line) for line in (names, *rows)]
    (tmp_path / "first/data.jsonl").write_text("\n".join(lines))
    data = replace(config.data, split="source", train_on="train")
    configs.save(tmp_path / "first/config.json", replace(config, data=data))
    found = learned(tmp_path / "first", opened.pictures)
    assert found.classes == {names[5], names[8]}
    assert found.hashes == {row[3] for row in rows if row[1] in (5, 8)}


def with_split(config, split, **sections):
    return replace(config, data=replace(config.data, split=split, train_on="train"), **sections)


def test_networks_before_the_last_one_and_teachers_are_asked(config, tmp_path):
    """One learned the classes 0 to 2, another, which began with it, 3 and 4, and a third, its pupil, 5."""
    names = ("first", "second", "third")
    first, second, third = (tmp_path / name for name in names)
    untrained(with_split(config, "0-2/6-6/7-9"), first, [3])
    untrained(with_model(with_split(config, "3-4/6-6/7-9"), weights=str(first)), second, [3])
    pupil = replace(config.distill, teacher=str(second))
    untrained(with_split(config, "5-5/6-6/7-9"), third, [3])
    configs.save(third / "config.json", with_split(config, "5-5/6-6/7-9", distill=pupil))
    last = replace(config.distill, teacher=str(third))
    opened = run.open_run(with_split(config, "6-9/5-5/0-4"), tmp_path / "last")
    for options in ({"distill": last}, {"model": replace(config.model, weights=str(third))}):
        with pytest.warns(
            UserWarning, match=r"third: the network, or one before it, has learned 5 of the 5 test"
        ):
            found = seen_classes(
                with_split(config, "6-9/5-5/0-4", **options), opened.images, "test", opened.pictures
            )
        assert found == {"classes": [f"class{i}" for i in range(5)], "pictures": 40}
    shutil.rmtree(first)
    with pytest.warns(
        UserWarning, match=r"third: the network, or one before it, has learned 2 of the 5 test"
    ):
        seen_classes(with_split(config, "6-9/5-5/0-4", distill=last), opened.images, "test", opened.pictures)
    configs.save(second / "config.json", with_model(configs.load(second / "config.json"), weights=str(third)))
    with pytest.warns(UserWarning, match="has learned 2 of the 5 test"):  # each is asked once
        seen_classes(with_split(config, "6-9/5-5/0-4", distill=last), opened.images, "test", opened.pictures)


def test_a_saved_network_without_its_arrays_is_named(config, tmp_path):
    untrained(config, tmp_path / "first", [3])
    jaxml.load(tmp_path / "first").save(tmp_path / "saved")
    (tmp_path / "saved/model.safetensors").unlink()
    with pytest.raises(
        WeightFormatError, match=r"--model\.weights: \S+saved is a saved network without its model"
    ):
        load_weights(with_model(config, weights=str(tmp_path / "saved")), learner.create(config, 5)[1])


def test_a_folder_called_auto_is_not_taken_for_the_package(config, tmp_path, monkeypatch):
    untrained(config, tmp_path / "auto", [3])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="simple"):
        load_weights(with_model(config, weights="auto"), learner.create(config, 5)[1])


def test_weights_that_have_changed_are_warned_of(first, second, tmp_path):
    train.learn(second, tmp_path / "second")
    opened = run.load(tmp_path / "second")
    row = opened.images.rows("test")
    before = results.frozen_features(opened, row)
    shutil.rmtree(first / "checkpoints")
    untrained(replace(configs.load(first / "config.json"), train=replace(second.train, ema=0.0)), first, [3])
    with pytest.warns(UserWarning, match="first has changed since the run began with it"):
        after = results.frozen_features(opened, row)
    assert not np.array_equal(before, after)
