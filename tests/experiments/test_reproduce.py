"""The table of experiments: rows under one budget, resuming, the choice of steps, and the documents."""

import hashlib
import json
import re
import shlex
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from experiments.paper import longest, plots, rates, readme, reproduce, tables
from experiments.paper.rows import BUDGETS, PRESET, ROWS, Row, changes
from jaxml import config as configs
from jaxml.commands.options import preset, train_options
from jaxml.commands.train import parse_train
from jaxml.errors import RunError
from jaxml.evaluation import clustering as evaluate
from jaxml.reports.scores import PUBLISHED
from jaxml.training import history, run, train
from jaxml.training import optimizer as optim
from jaxml.training import weights as weights_of_run
from jaxml.training.learner import create, loss_function
from tests.commands.test_tune import other_pictures
from tests.experiments.test_stress import run as run_script
from tests.spread import spread
from tests.training.test_run import StopAt, config, pictures  # noqa: F401


def test_names_are_unique_and_shahs_rows_are_all_there():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert sorted(name for row in ROWS for name in row.original if name) == sorted(PUBLISHED)


@pytest.mark.parametrize("budget", BUDGETS)
def test_rows_are_configurations_that_see_as_many_images(budget):
    images = {}
    for row in ROWS:
        found = configs.override(preset(PRESET), changes(row, budget))
        # The command that the table shows gives the same configuration.
        words = shlex.split(train_options(PRESET, changes(row, budget)))
        assert parse_train(words).config == found
        if not row.features:
            loss_function(found)
            images[row.name] = found.train.steps * found.data.classes_per_batch * found.data.images_per_class
            # The newest two checkpoints are kept: all validations of a run must be among them.
            assert found.train.steps == pytest.approx(2 * found.train.eval_every, abs=1)
    assert max(images.values()) <= 1.02 * min(images.values()), images


@pytest.mark.parametrize(
    "row",
    spread((row for row in ROWS if "optim.groups" in row.changes), of=4, label=lambda row: row.name),
)
def test_learning_rate_groups_match_parameters(row):
    found = configs.override(preset(PRESET), changes(row, "small"))
    params = create(found, 40)[1].params
    rates = [line.split()[-3] for line in optim.table(found, params).splitlines()[1:]]
    assert rates == ["0.0001", "0.02", "0.001"]


def test_an_unknown_row_is_refused():
    with pytest.raises(ValueError, match="--only nothing is unknown; the rows are pixels"):
        reproduce.main(["--only", "nothing"])


@pytest.fixture
def table(config, tmp_path, monkeypatch):  # noqa: F811
    """A small table, and the arguments that run it."""
    small = replace(config, train=replace(config.train, steps=8, eval_every=4, save_every=4))
    configs.save(tmp_path / "base.json", small)
    rows = [
        Row("pixels", "raw pixels", "Base", features="pixels"),
        Row("first", "hinge", "Trained", {"loss.name": "triplet"}, clusters=(1, 2)),
        Row("second", "contrastive", "Trained", {"loss.name": "contrastive"}),
    ]
    monkeypatch.setitem(BUDGETS, "small", {})
    monkeypatch.setattr(reproduce, "ROWS", rows)
    for module in (reproduce, tables):
        monkeypatch.setattr(module, "PRESET", str(tmp_path / "base.json"))
    return ["--data_root", small.data.root, "--devices", "1", "--workdir", str(tmp_path / "out")]


def test_stopped_table_goes_on_and_finished_rows_are_left_alone(table, tmp_path, monkeypatch):
    learn = train.learn
    stop = StopAt(6, KeyboardInterrupt, when=(tmp_path / "out/second/0/config.json").exists)
    monkeypatch.setattr(train, "learn", partial(learn, callbacks=[stop]))
    with pytest.raises(KeyboardInterrupt):
        reproduce.main(table)
    out = tmp_path / "out"
    assert [line["row"] for line in json.loads((out / "results.json").read_text())] == [
        "pixels",
        "first",
        "first",
    ]
    started = []

    def learned(config, workdir, *, resume, go_on):  # noqa: F811
        started.append((Path(workdir).parent.name, resume))
        return learn(config, workdir, resume=resume, go_on=go_on)

    monkeypatch.setattr(train, "learn", learned)
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
    words_of_table = table
    for table in re.findall(r"<table>.*?</table>", (out / "results.html").read_text(), re.S):
        assert (
            len({len(re.findall(r"<t[hd]\b", row)) for row in re.findall(r"<tr.*?</tr>", table, re.S)}) == 1
        )
    assert "experiments.paper.reproduce --only second --budget small" in (out / "table.md").read_text()
    assert {path.name for path in (out / "figures").iterdir()} == set()

    # Each number of clusters takes the step that is best on validation classes, and scores the test classes there.
    opened = run.load(out / "first/0")
    measured = json.loads((out / "first/0/measured.json").read_text())
    labels, val = opened.images.index.labels, opened.images.rows("val")
    for k in (1, 2):
        scores = {}
        for step in opened.checkpoints.steps():
            state, _ = opened.checkpoints.restore(opened.state, step)
            found = evaluate.validate(opened.embed(val, state), labels[val], clusters_per_class=k)
            scores[step] = found["nmi"]
        assert sorted(scores) == [4, 8]
        assert measured["val"][str(k)]["nmi"] == pytest.approx(max(scores.values()))
        assert scores[measured["step"][str(k)]] == max(scores.values())
    test = opened.images.rows("test")
    state, _ = opened.checkpoints.restore(opened.state, measured["step"]["2"])
    again = evaluate.evaluate(opened.embed(test, state), labels[test], clusters_per_class=2)
    assert again["nmi"] == pytest.approx(measured["test"]["2"]["nmi"])

    # The best step is not chosen among the remaining checkpoints only.
    (out / "first/0/measured.json").unlink()
    shutil.rmtree(out / "first/0/checkpoints/4")
    with pytest.raises(RunError, match=r"first/0 has lost the checkpoints of steps 4.*delete .*first/0"):
        reproduce.main(words_of_table)


@pytest.fixture
def quick(table, monkeypatch):
    """The same table without training: runs have a configuration and made-up scores. Returns arguments and what ran."""
    ran = []

    def scored(row, config, folder):  # noqa: F811
        folder.mkdir(parents=True, exist_ok=True)
        configs.save(folder / "config.json", config)
        ran.append((row.name, config.train.seed))
        scores = dict.fromkeys((*tables.ORIGINAL, *tables.MAIN), 0.1 + 0.01 * config.train.seed)
        return {
            "step": dict.fromkeys(row.clusters, 8),
            "val": dict.fromkeys(row.clusters),
            "test": dict.fromkeys(row.clusters, scores),
        }

    monkeypatch.setattr(reproduce, "trained", scored)
    monkeypatch.setattr(reproduce, "untrained", scored)
    return table, ran


def files(folder):
    """Contents of a folder by name, without the lock."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_rows_keep_what_their_numbers_depend_on(quick, tmp_path):
    reproduce.main([*quick[0], "--seeds", "0", "3"])
    out = tmp_path / "out"
    measured = json.loads((out / "first/3/measured.json").read_text())
    assert measured["budget"] == "small"
    assert measured["seed"] == measured["config"]["train"]["seed"] == 3
    assert configs.from_dict(measured["config"]) == configs.load(out / "first/3/config.json")
    assert re.fullmatch("[0-9a-f]{64}", measured["data_sha256"])
    assert measured["weights_sha256"] == ""
    lines = json.loads((out / "results.json").read_text())
    assert {line["budget"] for line in lines} == {"small"}
    assert [line["seeds"] for line in lines] == [[0, 3]] * 4


def test_rows_of_one_budget_are_never_shown_as_those_of_another(quick, tmp_path, monkeypatch):
    words_of_table, ran = quick
    monkeypatch.setitem(BUDGETS, "large", {"train.steps": 16})
    monkeypatch.setitem(BUDGETS, "alike", {})
    reproduce.main([*words_of_table, "--only", "first"])
    before = files(tmp_path / "out")
    refused = r"first/0 was begun with other options or data; it differs in budget: 'small' -> '{}'{}; choose"
    for budget, more in (("large", "; train.steps: 8 -> 16"), ("alike", "")):
        for only in ([], ["--only", "first"], ["--only", "second"]):
            with pytest.raises(RunError, match=refused.format(budget, more)):
                reproduce.main([*words_of_table, "--budget", budget, *only])
    assert files(tmp_path / "out") == before
    assert ran == [("first", 0)]
    reproduce.main([*words_of_table, "--budget", "large", "--workdir", str(tmp_path / "large")])
    table = (tmp_path / "large/table.md").read_text()
    assert "--budget large" in table
    assert "--budget small" not in table


def test_a_stopped_row_does_not_go_on_with_anything_else(quick, config, tmp_path, monkeypatch):  # noqa: F811
    words_of_table, ran = quick
    scored = reproduce.trained

    def stopped(*given):
        scored(*given)
        raise KeyboardInterrupt

    def load(config, state):
        return state, {"sha256": hashlib.sha256(Path(config.model.weights).read_bytes()).hexdigest()}

    monkeypatch.setattr(weights_of_run, "load_weights", load)
    (tmp_path / "w.npz").write_bytes(b"one")
    words_of_table = [*words_of_table, "--weights", str(tmp_path / "w.npz"), "--only", "first"]
    monkeypatch.setattr(reproduce, "trained", stopped)
    with pytest.raises(KeyboardInterrupt):
        reproduce.main(words_of_table)
    monkeypatch.setattr(reproduce, "trained", scored)
    before = files(tmp_path / "out")

    other = other_pictures(config, tmp_path / "other").data.root
    changed = Row("first", "hinge", "Trained", {"loss.name": "triplet", "loss.options.margin": 0.3})
    cases = [
        (["--data_root", other], "data_sha256: '[0-9a-f]+' -> '[0-9a-f]+'"),
        ([], r"loss.options: \[\] -> \[\['margin', 0.3\]\]"),
        ([], "weights_sha256: '[0-9a-f]+' -> '[0-9a-f]+'"),
    ]
    for more, differs in cases:
        if "loss" in differs:
            monkeypatch.setattr(reproduce, "ROWS", [changed])
        if "weights" in differs:
            (tmp_path / "w.npz").write_bytes(b"two")
        with pytest.raises(RunError, match=f"first/0 was begun with other .*{differs}; choose another"):
            reproduce.main([*words_of_table, *more])
        monkeypatch.setattr(reproduce, "ROWS", [replace(changed, changes={"loss.name": "triplet"})])
    assert files(tmp_path / "out") == before
    (tmp_path / "w.npz").write_bytes(b"one")
    reproduce.main(words_of_table)
    assert ran == [("first", 0)] * 2


def test_missing_data_and_weights_are_errors_where_all_rows_are_finished(quick, tmp_path):
    words_of_table, _ = quick
    reproduce.main(words_of_table)
    before = files(tmp_path / "out")
    for name in ("--data_root", "--weights"):
        with pytest.raises((ValueError, OSError), match="nowhere"):
            reproduce.main([*words_of_table, name, str(tmp_path / "nowhere.safetensors")])
    assert files(tmp_path / "out") == before
    with pytest.raises(ValueError, match="nowhere"):
        reproduce.main([*words_of_table, "--data_root", "nowhere", "--workdir", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["measured.json", "depends_on.json"])
def test_a_damaged_record_is_named_and_not_taken_for_a_finished_row(quick, tmp_path, name):
    words_of_table, ran = quick
    reproduce.main(words_of_table)
    path = tmp_path / "out/first/0" / name
    whole = path.read_bytes()
    digit = whole.replace(b'"steps": 8', b'"steps": 9')
    assert digit != whole
    for content in (b"", b"{}", b"[]", b"null", b"\xff\xfe", whole[: len(whole) // 2], b"[" * 100_000, digit):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} is damaged") as refused:
            reproduce.main([*words_of_table, "--only", "second"])
        assert "\n" not in str(refused.value)
    path.write_bytes(whole)
    assert len(ran) == 3
    (path.parent / "measured.json").unlink()
    reproduce.main(words_of_table)
    assert len(ran) == 4


def test_rows_of_an_earlier_version_are_not_taken_for_rows_of_this_budget(quick, tmp_path):
    reproduce.main(quick[0])
    (tmp_path / "out/first/0/depends_on.json").unlink()
    with pytest.raises(RunError, match=r"first/0 has no depends_on\.json"):
        reproduce.main(quick[0])


def test_two_processes_do_not_work_on_one_table(quick, tmp_path, monkeypatch):
    words_of_table, ran = quick
    scored = reproduce.trained

    def second(*given):
        with pytest.raises(RunError, match=r"out is .* by process"):
            reproduce.main(words_of_table)
        return scored(*given)

    monkeypatch.setattr(reproduce, "trained", second)
    reproduce.main(words_of_table)
    assert ran == [("pixels", 0), ("first", 0), ("second", 0)]


def test_tables_hold_every_finished_row_and_no_copy_of_one(quick, tmp_path):
    """Also if a process was killed before it wrote them; and a folder that was copied by hand is not another seed."""
    words_of_table, ran = quick
    reproduce.main([*words_of_table, "--seeds", "0", "10", "2"])
    out = tmp_path / "out"
    for name in ("0 copy", "backup", "00"):
        shutil.copytree(out / "first/0", out / "first" / name)
    for name in ("results.json", "table.md", "results.html"):
        (out / name).unlink()
    reproduce.main([*words_of_table, "--only", "pixels"])
    lines = json.loads((out / "results.json").read_text())
    assert [line["seeds"] for line in lines] == [[0, 2, 10]] * 4
    assert (out / "results.html").exists()
    assert len(ran) == 9


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--only", "b_hinge", "nothing"], "--only nothing is unknown; the rows are pixels"),
        (["--budget", "huge"], "--budget is 'huge'; it must be one of small, large"),
        (["--seeds", "0", "1", "0"], "--seeds is '0 1 0'; give at least one seed, and each seed once"),
        (["--seeds"], "--seeds is ''; give at least one seed"),
        (["--seeds", "-1"], "--seeds has -1; it must be at least 0"),
        (["--seeds", "4294967296"], "--seeds has 4294967296; it must be at most 4294967295"),
        (["--devices", "-1"], "--devices is -1; it must be at least 0"),
        (["--workdir", ""], "--workdir is empty"),
        (["--workdir", "{}/file"], "--workdir {}/file cannot be a folder"),
        (["--only", "frozen"], "--weights is missing"),
        ([], "--weights is missing"),
        (["--only", "pixels", "--data.root", "{}/none", "--train.devices", "1"], "{}/none"),
        (
            ["--only", "pixels", "--model.weights", "{}/none", "--train.devices", "-1"],
            "--devices is -1; it must be at least 0",
        ),
        (["--only", "pixels", "--data_root=--nothing"], "--nothing"),
    ],
)
def test_mistakes_end_in_one_line(given, named, config, tmp_path, monkeypatch, capsys):  # noqa: F811
    (tmp_path / "file").write_text("")
    configs.save(tmp_path / "base.json", config)
    if "file" in named:
        monkeypatch.setitem(BUDGETS, "small", {})
        monkeypatch.setattr(reproduce, "PRESET", str(tmp_path / "base.json"))
        given = ["--only", "pixels", *given]
    given = ["--workdir", str(tmp_path / "new"), *(word.format(tmp_path) for word in given)]
    code, said = run_script(reproduce.main, given, monkeypatch, capsys)
    assert code == 1
    assert named.format(tmp_path) in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


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


def test_figure_of_classes_needs_no_data_set(tmp_path):
    """The data set may have moved since the row was finished."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "b_hinge/0"
    folder.mkdir(parents=True)
    stored = {
        "embeddings": rng.normal(size=(20, 3)),
        "labels": np.arange(20) % 5,
        "class_names": list("abcde"),
    }
    np.savez(folder / "test.npz", **stored)
    line = {"row": "b_hinge", "seeds": [0], "section": "Model B", "title": "hinge"}
    figure = plots._classes(tmp_path, [line])
    assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) == 16
    for content in (b"", b"no archive", (folder / "test.npz").read_bytes()[:300]):
        (folder / "test.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"test\.npz is damaged; delete it and .*measured\.json"):
            plots._classes(tmp_path, [line])


def test_longest_training_is_a_row_with_the_words_that_repeat_it(config, tmp_path):  # noqa: F811
    base = parse_train(["--preset", "cub_squeezenet", "--data.root", "birds"]).config
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
    again = parse_train([*shlex.split(line["train"]), "--data.root", "birds"]).config
    assert again == base
    configs.save(tmp_path / "1/config.json", replace(base, train=replace(base.train, steps=7)))
    with pytest.raises(ValueError, match=r"in more than its seed: .*train\.steps: 600 -> 7"):
        longest.main([*given, "--runs", *folders])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--runs", "{0}/0", "{0}/0"], "--runs have the training seeds 0 0: each must have its own"),
        (["--runs"], "--runs names no run"),
        (["--runs", "{0}/0", "--preset", "nothing"], "--preset is 'nothing'; it must be one of "),
        (["--runs", "{0}/1"], "{0}/1/results.json is no JSON file"),
        (["--runs", "{0}/0", "--out", "{0}/1/results.json"], "{0}/1/results.json is no JSON file"),
    ],
)
def test_a_row_of_the_longest_training_is_never_counted_twice(
    given,
    named,
    config,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    for seed in (0, 1):
        configs.save(
            tmp_path / f"{seed}/config.json", replace(config, train=replace(config.train, seed=seed))
        )
        (tmp_path / f"{seed}/results.json").write_text(
            '{"step": 1, "test": {"nmi": 0.5}}' if not seed else "{"
        )
    given = [
        "--title",
        "long",
        "--minutes",
        "9",
        "--cpu_minutes",
        "7",
        *(word.format(tmp_path) for word in given),
    ]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "longest.json")]
    code, said = run_script(longest.main, given, monkeypatch, capsys)
    assert code == 1
    assert named.format(tmp_path) in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "longest.json").exists()


def test_the_result_files_show_the_options_of_the_rows():
    rows = {row.name: row for row in ROWS}
    table = (readme.RESULTS / "table.md").read_text(encoding="utf-8")
    for line in readme.results("results"):
        row = rows[line["row"]]
        options = "" if row.features else train_options(PRESET, changes(row, "small"))
        assert line["train"] == options
        assert f"`{options}`" in table or row.features


def test_the_large_budget_has_the_learning_rates_that_were_found_best():
    rows, found = {row.name: row for row in ROWS}, readme.results("rates")
    assert {trial["row"] for trial in found} == set(rates.STAND_FOR_ALL)
    for name in rates.STAND_FOR_ALL:
        trials = [trial for trial in found if trial["row"] == name]
        assert [trial["learning_rate"] for trial in trials] == list(rates.TRIED)
        best = max(trials, key=lambda trial: trial["val_nmi"])
        assert changes(rows[name], "large")["optim.learning_rate"] == best["learning_rate"]
        assert "optim.learning_rate" not in changes(rows[name], "small")


@pytest.mark.parametrize("path", readme.DOCUMENTS, ids=lambda path: path.name)
def test_documents_agree_with_the_result_files(path):
    text = path.read_text(encoding="utf-8")
    assert readme.inserted(text, readme.DOCUMENTS[path]()) == text, "run python -m experiments.paper.readme"


def test_documents_show_the_rows_of_the_result_files():
    lines = [line for line in readme.results("results") if line["clusters"] == 1]
    assert len(lines) > 30
    for path, shown in (
        ("docs/results.md", {line["row"] for line in lines}),
        ("README.md", set(readme.SHORT)),
    ):
        text = (readme.ROOT / path).read_text(encoding="utf-8")
        for line in lines:
            cells = f"| {line['title']} | {line['metrics']['nmi']['mean']:.3f}"
            assert (cells in text) == (line["row"] in shown)
        for protocol in readme.PROTOCOLS:  # README shows birds that are cropped to their boxes, and no others
            found = [f"| {x['title']} | {x['metrics']['nmi']['mean']:.3f}" for x in readme.longest(protocol)]
            assert found
            assert all((cells in text) == (path != "README.md" or protocol == "cropped") for cells in found)


def test_hand_crafted_features_tell_shape_and_colour():
    from experiments.paper.handcrafted import features

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
