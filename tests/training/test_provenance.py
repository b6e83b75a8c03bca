"""A checkpoint says what its run was: another configuration or other pictures are refused and named."""
# ruff: noqa: F811 (fixtures)

import shutil
from dataclasses import replace

import pytest

from jaxml import config as configs
from jaxml.config import Model, Triplets
from jaxml.errors import RunError
from jaxml.training import provenance, run, saved, train
from tests.training.test_run import config, pictures, untrained  # noqa: F401


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("data", {"split": "0-4/5-6/7-8"}, r"data\.split: '0-4/5-6/7-9' -> '0-4/5-6/7-8'"),
        ("train", {"seed": 1}, r"train\.seed: 0 -> 1"),
    ],
)
def test_a_configuration_that_is_not_the_checkpoints_is_refused(config, tmp_path, section, values, named):
    """A changed config.json, or the checkpoints of another run."""
    workdir = tmp_path / "run"
    untrained(config, workdir, [3])
    other = replace(config, **{section: replace(getattr(config, section), **values)})
    configs.save(workdir / "config.json", other)
    for read in (run.load, saved.load_variables, lambda workdir: train.train(other, workdir, resume=True)):
        with pytest.raises(RunError, match=f"checkpoint 3 is of another run; it differs in {named}"):
            read(workdir)


def test_options_that_may_change_are_taken_from_the_configuration_and_printed(config, tmp_path, capsys):
    workdir = tmp_path / "run"
    untrained(config, workdir, [3])
    changed = replace(config, eval=replace(config.eval, kmeans_seeds=1))
    configs.save(workdir / "config.json", changed)
    assert run.load(workdir).config.eval == changed.eval
    assert "changed since checkpoint 3 was saved: eval.kmeans_seeds: 2 -> 1" in capsys.readouterr().out
    assert saved.load_variables(workdir)[0].config == changed
    assert "eval.kmeans_seeds: 2 -> 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option", [{"mirror": True}, {"size": 28}, {"crops": (0.8, 1.0)}, {"feature_size": 4}]
)
def test_lists_of_triplets_go_on_with_the_embeddings_they_began_with(config, tmp_path, option):
    """Other embeddings of the training images would choose other triplets."""
    data = replace(config.data, classes_per_batch=3)
    spatial = Model(backbone="squeezenet1_1", feature_size=8)
    mode = replace(config.train, mode="input_triplets")
    by_embeddings = replace(config, data=data, model=spatial, train=mode, triplets=Triplets("hardest"))
    other = replace(by_embeddings, eval=replace(config.eval, **option))
    assert provenance.changed(by_embeddings, other) == (configs.differences(by_embeddings, other), [])
    assert provenance.changed(config, replace(config, eval=other.eval))[0] == []
    drawn_at_random = replace(by_embeddings, triplets=Triplets("random"))
    assert provenance.changed(drawn_at_random, replace(other, triplets=Triplets("random")))[0] == []
    workdir = tmp_path / "run"
    workdir.mkdir()
    configs.save(workdir / "config.json", by_embeddings)
    with pytest.raises(RunError, match=f"holds another run; it differs in eval.{next(iter(option))}: "):
        train.train(other, workdir, resume=True)


def one_more(root):
    shutil.copy(root / "class3" / "0.png", root / "class3" / "8.png")


def one_less(root):
    (root / "class3" / "4.png").unlink()


def another(root):
    shutil.copy(root / "class3" / "0.png", root / "class3" / "4.png")


def in_another_class(root):
    (root / "class3").rename(root / "class33")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(
            one_more,
            "80 images of 10 classes then, 81 images of 10 classes now, first of all class3/8.png is new",
            marks=pytest.mark.slow,
        ),
        (
            one_less,
            "80 images of 10 classes then, 79 images of 10 classes now, first of all class3/4.png is missing",
        ),
        (another, "80 images of 10 classes now, first of all class3/4.png is another one"),
        pytest.param(
            in_another_class, "80 images of 10 classes now, with other classes", marks=pytest.mark.slow
        ),
    ],
)
def test_other_pictures_are_refused_and_named(config, pictures, tmp_path, change, named):
    root, workdir = tmp_path / "pictures", tmp_path / "run"
    shutil.copytree(pictures, root)
    config = replace(config, data=replace(config.data, root=str(root)))
    untrained(config, workdir, [3])
    change(root)
    # As if the data set had never been read before.
    elsewhere = replace(config, data=replace(config.data, cache=str(tmp_path / "other")))
    configs.save(workdir / "config.json", elsewhere)
    before = (workdir / "config.json").read_bytes()
    for read in (run.load, lambda workdir: train.train(elsewhere, workdir, resume=True)):
        with pytest.raises(
            RunError, match=f"checkpoint 3 is of a run on other pictures: .*{named}.*--other_data"
        ):
            read(workdir)
    saved.load_variables(workdir)
    assert (workdir / "config.json").read_bytes() == before
    (workdir / "data.jsonl").unlink()
    with pytest.raises(
        RunError, match=r"on other pictures: 80 images of 10 classes then, .* classes now; restore"
    ):
        run.load(workdir)
    assert run.load(workdir, other_data=True).checkpoints.steps() == [3]
    train.train(elsewhere, workdir, resume=True, other_data=True)
    assert run.load(workdir).checkpoints.steps() == [9, 12]


def test_a_data_set_that_has_moved_is_the_same_one(config, pictures, tmp_path):
    workdir = tmp_path / "run"
    untrained(config, workdir, [3])
    shutil.copytree(pictures, tmp_path / "moved")
    assert run.load(workdir, data_root=str(tmp_path / "moved")).config.data.root == str(tmp_path / "moved")


def test_a_resume_that_is_refused_leaves_the_configuration(config, tmp_path):
    """Here by checkpoints that are of another run; the new root was allowed, and must not stay."""
    workdir = tmp_path / "run"
    untrained(replace(config, train=replace(config.train, seed=1)), workdir, [3])
    configs.save(workdir / "config.json", config)
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(RunError, match="of another run"):
        train.train(replace(config, eval=replace(config.eval, kmeans_seeds=1)), workdir, resume=True)
    assert (workdir / "config.json").read_bytes() == before


def test_runs_from_before_fingerprints_go_on(config, tmp_path):
    workdir = tmp_path / "run"
    untrained(config, workdir, [3])
    (workdir / "data.jsonl").unlink()
    opened = run.load(workdir)
    opened.checkpoints.save(3, opened.state, score=None, meta={"config": configs.to_dict(config)})
    assert run.load(workdir).checkpoints.steps() == [3]
    train.train(config, workdir, resume=True)
    assert run.load(workdir).checkpoints.steps() == [9, 12]
