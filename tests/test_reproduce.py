"""The table of experiments: rows under one budget, runs that go on, choices of steps, and README."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_run import config, pictures  # noqa: F401

from jaxml import config as configs
from jaxml import evaluate, fit, history, optim, run
from jaxml import train as training
from jaxml.cli import parse_train
from jaxml.report import PUBLISHED
from jaxml.train import loss_function

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
import longest
import plots
import readme
import reproduce
import tables
from rows import BUDGETS, ROWS, Row, words


def test_names_are_unique_and_shahs_rows_are_all_there():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert sorted(name for row in ROWS for name in row.original if name) == sorted(PUBLISHED)


@pytest.mark.parametrize("budget", BUDGETS)
def test_rows_parse_and_see_as_many_images(budget):
    images = {}
    for row in ROWS:
        found = parse_train(reproduce.train_words(row, budget), "").config
        if not row.features:
            loss_function(found)
            images[row.name] = found.train.steps * found.data.classes_per_batch * found.data.images_per_class
            # The newest two checkpoints are kept: all validations of a run must be among them.
            assert found.train.steps == pytest.approx(2 * found.train.eval_every, abs=1)
    assert max(images.values()) <= 1.02 * min(images.values()), images


@pytest.mark.parametrize(
    "row", [row for row in ROWS if "--optim.groups" in row.words], ids=lambda row: row.name
)
def test_learning_rate_groups_match_parameters(row):
    found = parse_train(reproduce.train_words(row, "small"), "").config
    params = training.create(found, 40)[1].params
    rates = [line.split()[-3] for line in optim.table(found.optim, params).splitlines()[1:]]
    assert rates == ["0.0001", "0.02", "0.001"]


def test_an_unknown_row_is_refused():
    with pytest.raises(ValueError, match="--only nothing is no row; there are pixels"):
        reproduce.main(["--only", "nothing"])


@pytest.fixture
def table(config, tmp_path, monkeypatch):  # noqa: F811
    """A small table, and the words that run it."""
    small = replace(config, train=replace(config.train, steps=8, eval_every=4, save_every=4))
    configs.save(tmp_path / "base.json", small)
    rows = [
        Row("pixels", "raw pixels", "Base", features="pixels"),
        Row("first", "hinge", "Trained", words("--loss.name triplet"), clusters=(1, 2)),
        Row("second", "contrastive", "Trained", words("--loss.name contrastive")),
    ]
    monkeypatch.setitem(reproduce.BUDGETS, "small", f"--preset {tmp_path / 'base.json'}")
    monkeypatch.setattr(
        reproduce, "train_words", lambda row, budget: [*reproduce.BUDGETS[budget].split(), *row.words]
    )
    monkeypatch.setattr(reproduce, "ROWS", rows)
    return ["--data_root", small.data.root, "--devices", "1", "--workdir", str(tmp_path / "out")]


def test_stopped_table_goes_on_and_finished_rows_are_left_alone(table, tmp_path, monkeypatch):
    collect = fit._Progress.collect

    def stopping(self, start, *rest):
        collect(self, start, *rest)
        if start == 5 and (tmp_path / "out/second/0/config.json").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(fit._Progress, "collect", stopping)
    with pytest.raises(KeyboardInterrupt):
        reproduce.main(table)
    monkeypatch.setattr(fit._Progress, "collect", collect)
    out = tmp_path / "out"
    assert [line["row"] for line in json.loads((out / "results.json").read_text())] == [
        "pixels",
        "first",
        "first",
    ]
    started = []
    learn = run.learn

    def learned(config, workdir, *, resume):  # noqa: F811
        started.append((Path(workdir).parent.name, resume))
        return learn(config, workdir, resume=resume)

    monkeypatch.setattr(run, "learn", learned)
    reproduce.main(table)
    assert started == [("second", True)]
    losses = [row for row in history.read(out / "second/0/metrics.jsonl") if "loss" in row]
    assert len(losses) == 8
    lines = json.loads((out / "results.json").read_text())
    assert [(line["row"], line["clusters"]) for line in lines] == [
        ("pixels", 1),
        ("first", 1),
        ("first", 2),
        ("second", 1),
    ]
    for name in ("results.html", "table.md"):
        text = (out / name).read_text()
        for line in lines:
            assert line["title"] in text
            assert f"{line['metrics']['nmi']['mean']:.3f}" in text
    for table in re.findall(r"<table>.*?</table>", (out / "results.html").read_text(), re.S):
        assert (
            len({len(re.findall(r"<t[hd]\b", row)) for row in re.findall(r"<tr.*?</tr>", table, re.S)}) == 1
        )
    assert "reproduce.py --only second --budget small" in (out / "table.md").read_text()
    assert {path.name for path in (out / "figures").iterdir()} == set()

    # Each number of clusters takes the step that is best on validation classes, and scores the test classes there.
    opened = run.load(out / "first/0")
    measured = json.loads((out / "first/0/measured.json").read_text())
    embed = run.embedder(opened)
    labels, val = opened.images.index.labels, opened.images.rows("val")
    for k in (1, 2):
        scores = {}
        for step in opened.checkpoints.steps():
            state, _ = opened.checkpoints.restore(opened.state, step)
            found = evaluate.validate(embed(state, val), labels[val], clusters_per_class=k)
            scores[step] = found["nmi"]
        assert sorted(scores) == [4, 8]
        assert measured["val"][str(k)]["nmi"] == pytest.approx(max(scores.values()))
        assert scores[measured["step"][str(k)]] == max(scores.values())
    test = opened.images.rows("test")
    state, _ = opened.checkpoints.restore(opened.state, measured["step"]["2"])
    again = evaluate.evaluate(embed(state, test), labels[test], clusters_per_class=2)
    assert again["nmi"] == pytest.approx(measured["test"]["2"]["nmi"])


def test_mean_and_deviation_over_training_seeds_or_else_over_kmeans_seeds():
    one = {"nmi": 0.5, "nmi_std": 0.02, "recall@1": 0.3}
    found = tables.over_seeds([one])
    assert found["metrics"] == {"nmi": {"mean": 0.5, "std": 0.02}, "recall@1": {"mean": 0.3, "std": None}}
    found = tables.over_seeds([one, {"nmi": 0.8, "nmi_std": 0.01, "recall@1": 0.5}])
    assert found["std_over"] == "training seeds"
    assert found["metrics"]["nmi"]["std"] == pytest.approx(0.3 / 2**0.5)
    assert found["metrics"]["recall@1"]["mean"] == pytest.approx(0.4)


def test_trend_is_the_running_mean():
    x = np.random.default_rng(0).normal(size=60)
    expected = [np.mean(x[max(0, i - 10) : i + 11]) for i in range(60)]
    np.testing.assert_allclose(plots.trend(x), expected)
    np.testing.assert_allclose(plots.trend(np.full(5, 3.0)), 3.0)


def test_stability_is_the_deviation_from_the_trend(tmp_path):
    rng = np.random.default_rng(1)
    noise, slope = rng.normal(0, 0.1, 2000), np.linspace(5, 0, 2000)
    lines = [json.dumps({"step": i, "loss": x}) for i, x in enumerate(slope + noise)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert plots.stability(tmp_path)["detrended_std"] == pytest.approx(0.1, rel=0.1)
    assert plots.stability(tmp_path / "none") is None


def test_longest_training_is_a_row_with_the_words_that_repeat_it(config, tmp_path):  # noqa: F811
    base = parse_train(["--preset", "cub_squeezenet", "--data.root", "birds"], "").config
    base = replace(
        base,
        data=replace(base.data, flip=False),
        loss=configs.Loss("triplet", (("margin", 0.3), ("mining", "local"))),
        optim=replace(base.optim, groups=(("backbone/.*", 0.2), ("loss/.*", 20.0))),
    )
    for seed, nmi in enumerate((0.5, 0.6)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        configs.save(folder / "config.json", replace(base, train=replace(base.train, seed=seed)))
        (folder / "results.json").write_text(
            json.dumps({"step": 600, "test": {"nmi": nmi, "f1": 0.2, "recall@1": 0.4}})
        )
    folders = [str(tmp_path / name) for name in "01"]
    given = [
        "--title",
        "long",
        "--minutes",
        "9",
        "--cpu_minutes",
        "7",
        "--out",
        str(tmp_path / "longest.json"),
    ]
    for _ in range(2):  # a row of the same title is replaced
        longest.main([*given, "--runs", *folders])
    (line,) = json.loads((tmp_path / "longest.json").read_text())
    assert line["seeds"] == [0, 1]
    assert line["metrics"]["nmi"]["mean"] == pytest.approx(0.55)
    assert "long" in tables.markdown([line])
    again = parse_train([*line["train"].split(), "--data.root", "birds"], "").config
    assert again == base
    configs.save(tmp_path / "1/config.json", replace(base, train=replace(base.train, steps=7)))
    with pytest.raises(ValueError, match=r"no other seed of .*train\.steps: 600 -> 7"):
        longest.main([*given, "--runs", *folders])


def test_readme_agrees_with_the_result_files():
    text = readme.README.read_text(encoding="utf-8")
    assert readme.inserted(text) == text, "run python experiments/readme.py"
    for line in readme.results("results"):
        if line["clusters"] == 1:
            assert f"| {line['title']} | {line['metrics']['nmi']['mean']:.3f}" in text


def test_hand_crafted_features_tell_shape_and_colour():
    from handcrafted import features

    rng = np.random.default_rng(0)
    stripes = np.zeros((3, 80, 80, 3), np.uint8)
    stripes[0, :, ::8], stripes[1, ::8], stripes[2, ::8] = 200, 200, (200, 0, 0)
    x = features(np.concatenate([stripes, rng.integers(0, 255, (2, 80, 80, 3), np.uint8)]))
    assert x.shape == (5, 1764 + 128)
    assert x.dtype == np.float32
    np.testing.assert_allclose(
        [np.linalg.norm(x[:, :1764], axis=1), np.linalg.norm(x[:, 1764:], axis=1)], 1, rtol=1e-5
    )
    shape, colour = x[:, :1764] @ x[:, :1764].T, x[:, 1764:] @ x[:, 1764:].T
    assert shape[1, 2] > 0.95 > 0.5 > shape[0, 1]
    assert colour[0, 1] > 0.95 > colour[1, 2]
