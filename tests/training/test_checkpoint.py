"""Checkpoints: what comes back is what was saved, or an error that names step and array."""

import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxml.errors import CheckpointError, DamagedCheckpoint
from jaxml.training import checkpoint_folder
from jaxml.training.checkpoint import Checkpoints, flatten


def state(shift=0.0, width=3):
    params = {
        "a": {"kernel": jnp.arange(4.0 * width).reshape(4, width) + shift},
        "b": jnp.ones(5, jnp.bfloat16),
    }
    return {"step": jnp.int32(7), "params": params, "opt_state": optax.adam(1e-3).init(params)}


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y) and x.dtype == y.dtype, a, b))


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", writer=True)


def test_what_was_saved_comes_back(checkpoints):
    checkpoints.save(3, state(0.25), score=0.5, meta={"config": {"x": 1}})
    restored, meta = checkpoints.restore(state(), 3)
    assert equal(restored, state(0.25))
    assert not equal(restored, state())
    assert meta == {"config": {"x": 1}, "score": 0.5}


def test_newest_two_and_best_are_kept(checkpoints):
    for step, score in enumerate([0.1, 0.9, 0.3, None, float("nan"), 0.2]):
        checkpoints.save(step, state(step), score=score, meta={})
    assert checkpoints.steps() == [1, 4, 5]
    assert checkpoints.best_step() == 1


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


# A restore that fails inside orbax leaves futures of a closed event loop behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_flipped_bit_is_noticed(checkpoints):
    """In whichever file it is: the values come back unchanged, or an error says that they cannot."""
    checkpoints.save(1, state(0.5), score=0.5, meta={"config": {"rate": 0.125}})
    rng = np.random.default_rng(0)
    outcomes = []
    for path in [path for path in files(checkpoints.directory / "1") if path.stat().st_size]:
        original = path.read_bytes()
        for _ in range(4):
            changed = bytearray(original)
            bit = int(rng.integers(8 * len(changed)))
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bytes(changed))
            try:
                restored, meta = checkpoints.restore(state(), 1)
            except DamagedCheckpoint:
                outcomes.append("refused")
            else:
                assert equal(restored, state(0.5)), path
                assert meta == {"config": {"rate": 0.125}, "score": 0.5}, path
                outcomes.append("unchanged")
        path.write_bytes(original)
    assert outcomes.count("refused") > 10


def test_damage_is_set_aside_and_the_older_one_used(checkpoints, caplog):
    checkpoints.save(1, state(1.0), score=None, meta={})
    checkpoints.save(2, state(2.0), score=None, meta={})
    data = max(files(checkpoints.directory / "2" / "state"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-3])
    restored, _ = checkpoints.restore_newest(state())
    assert equal(restored, state(1.0))
    assert "checkpoint 2" in caplog.text
    assert (checkpoints.directory.parent / "damaged" / "2").is_dir()
    assert checkpoints.steps() == [1]


def test_without_a_sound_checkpoint_the_run_stops(checkpoints):
    checkpoints.save(1, state(), score=None, meta={})
    for path in files(checkpoints.directory / "1" / "state"):
        path.unlink()
    with pytest.raises(CheckpointError, match="no sound checkpoint"):
        checkpoints.restore_newest(state())
    assert (checkpoints.directory.parent / "damaged" / "1").is_dir()


def test_the_best_sound_checkpoint_is_found(checkpoints):
    for step, score in enumerate([0.1, 0.9, 0.3]):
        checkpoints.save(step, state(step), score=score, meta={})
    for path in files(checkpoints.directory / "1" / "state"):
        path.write_bytes(b"")
    restored, meta = checkpoints.restore_best(state())
    assert equal(restored, state(2))
    assert meta["score"] == 0.3
    assert checkpoints.damaged() == ["1"]


def test_a_checkpoint_of_the_same_step_is_replaced(checkpoints):
    checkpoints.save(1, state(1), score=None, meta={})
    checkpoints.save(1, state(2), score=0.5, meta={})
    restored, meta = checkpoints.restore_newest(state())
    assert equal(restored, state(2))
    assert meta["score"] == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_kept(checkpoints, value):
    checkpoints.save(1, state(), score=0.1, meta={})
    with pytest.raises(
        CheckpointError, match=r"checkpoint 2 not written.*NaN or infinity in params\.a\.kernel"
    ):
        checkpoints.save(2, state(value), score=0.9, meta={})
    assert checkpoints.steps() == [1]


def test_modes_follow_the_umask(checkpoints):
    before = os.umask(0o022)
    try:
        checkpoints.save(1, state(), score=None, meta={})
    finally:
        os.umask(before)
    for path in (checkpoints.directory, *checkpoints.directory.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_checkpoints_that_orbax_manages_are_read(checkpoints):
    """As they were written before jaxml kept the folders itself."""
    arrays = {name: np.asarray(x) for name, x in flatten(state(0.5)).items()}
    meta = {
        "config": {"x": 1},
        "score": 0.25,
        "arrays": {n: checkpoint_folder._describe(x) for n, x in arrays.items()},
    }
    meta["sha256"] = checkpoint_folder._sha256(checkpoint_folder._canonical(meta))
    checkpoints.directory.mkdir()
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager(checkpoints.directory, options=options) as manager:
        args = ocp.args.Composite(state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta))
        manager.save(7, args=args)
    assert checkpoints.steps() == [7]
    restored, found = checkpoints.restore_best(state())
    assert equal(restored, state(0.5))
    assert found == {"config": {"x": 1}, "score": 0.25}


def test_left_overs_of_killed_processes_are_removed_by_the_next_save_and_nothing_else(checkpoints):
    names = ["1.saving", "1.saving.orbax-checkpoint-tmp", "1.deleting", "1.orbax-checkpoint-tmp"]
    others = ["notes", "1.backup", "1.saving.old", "saving", "01", "x.orbax-checkpoint-tmp"]
    for name in names + others:
        (checkpoints.directory / name).mkdir(parents=True)
        (checkpoints.directory / name / "file").write_text("text")
    (checkpoints.directory / "3.saving").write_text("a file, not a folder")
    again = Checkpoints(checkpoints.directory)
    assert again.steps() == []
    assert (checkpoints.directory / "1.saving").exists(), "another process may be writing it"
    again.save(2, state(), score=None, meta={})
    left = sorted(path.name for path in checkpoints.directory.iterdir())
    assert left == sorted([*others, "2", "3.saving"])


def test_another_network_is_refused_by_the_names_of_its_arrays(checkpoints):
    checkpoints.save(1, state(), score=None, meta={})
    with pytest.raises(CheckpointError, match=r"another network.*params\.a\.kernel"):
        checkpoints.restore_newest(state(width=2))
    assert checkpoints.steps() == [1], "a sound checkpoint must not be set aside"


def test_too_little_space_is_said_before_writing(checkpoints, monkeypatch):
    checkpoints.save(1, state(), score=None, meta={})
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(CheckpointError, match="no room for checkpoint 2"):
        checkpoints.save(2, state(), score=None, meta={})
    assert checkpoints.steps() == [1]


def test_threads_that_report_to_a_closed_event_loop_say_nothing_after_the_error(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    checkpoint_folder._mute_late_threads()
    late, other = (SimpleNamespace(exc_value=RuntimeError(text)) for text in ("Event loop is closed", "else"))
    for report in (late, other):
        sys.unraisablehook(report)
    assert heard == [other]
