"""Readers of checkpoints change nothing, beside a process that saves and deletes as well as without rights."""
# ruff: noqa: F811 (fixtures)

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from jaxml.errors import CheckpointError, MissingCheckpoint
from jaxml.training import checkpoint_folder
from jaxml.training.checkpoint import Checkpoints
from tests.training.test_checkpoint import checkpoints, equal, files, state  # noqa: F401


def contents(directory: Path) -> dict[Path, bytes | None]:
    """Every file and folder, with what it holds."""
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


def test_reading_a_folder_that_is_not_there_does_not_make_it(tmp_path):
    reader = Checkpoints(tmp_path / "run" / "checkpoints")
    assert reader.steps() == []
    assert reader.damaged() == []
    for restore in (reader.restore_newest, reader.restore_best):
        with pytest.raises(CheckpointError, match="no sound checkpoint"):
            restore(state())
    assert not list(tmp_path.iterdir())


def test_readers_leave_damage_where_it_is(checkpoints, caplog):
    for step in (1, 2):
        checkpoints.save(step, state(step), score=None, meta={})
    data = max(files(checkpoints.directory / "2" / "state"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-3])
    before = contents(checkpoints.directory.parent)
    reader = Checkpoints(checkpoints.directory)
    for restore in (reader.restore_newest, reader.restore_best):
        assert equal(restore(state())[0], state(1))
    assert "checkpoint 2" in caplog.text
    assert contents(checkpoints.directory.parent) == before


@pytest.mark.parametrize("item", ["read_meta", "read_arrays"])
def test_a_checkpoint_that_is_deleted_while_it_is_read_is_not_damaged(checkpoints, monkeypatch, caplog, item):
    """The process that trains saves two more in the midst of a read: that read finds a newer one."""
    for step in (1, 2):
        checkpoints.save(step, state(step), score=None, meta={})
    reader = Checkpoints(checkpoints.directory)
    read, saved = getattr(checkpoint_folder, item), []

    def slow(*args):
        if not saved:
            saved.append(True)
            for step in (3, 4):
                checkpoints.save(step, state(step), score=None, meta={})
        return read(*args)

    monkeypatch.setattr(checkpoint_folder, item, slow)
    assert equal(reader.restore_newest(state())[0], state(4))
    assert not caplog.records
    with pytest.raises(MissingCheckpoint, match=r"checkpoint 2 in .* is not there"):
        reader.restore(state(), 2)
    assert checkpoints.damaged() == []


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_not_damaged(checkpoints, monkeypatch, caplog):
    checkpoints.save(1, state(1), score=None, meta={})
    reader = Checkpoints(checkpoints.directory)
    read, saved = checkpoint_folder.read_arrays, []

    def slow(*args):
        if not saved:
            saved.append(True)
            checkpoints.save(1, state(2), score=None, meta={})
        return read(*args)

    monkeypatch.setattr(checkpoint_folder, "read_arrays", slow)
    assert equal(reader.restore_newest(state())[0], state(2))
    assert not caplog.records


def test_what_is_written_or_deleted_just_now_is_not_looked_at(checkpoints, monkeypatch):
    """At every rename and removal during a save, folders whose name is a number can be restored."""
    seen = []

    def watched(function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            reader = Checkpoints(checkpoints.directory)
            for step in reader.steps():
                assert equal(reader.restore(state(), step)[0], state(step))
            seen.append(reader.steps())
            return result

        return call

    monkeypatch.setattr("shutil.rmtree", watched(shutil.rmtree))
    monkeypatch.setattr(Path, "rename", watched(Path.rename))
    for step in (1, 2, 3, 3):
        checkpoints.save(step, state(step), score=None, meta={})
    assert [2, 3] in seen
    assert [1, 2, 3] in seen


@contextmanager
def without_rights():
    """Run as a user who is not root, so that the modes of files apply."""
    root = os.geteuid() == 0
    if root:
        os.setegid(65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)


@pytest.mark.parametrize("place", [".", "2", "2/meta/metadata", "2/state"])
@pytest.mark.parametrize("writer", [False, True])
def test_what_may_not_be_read_is_named_and_stays(place, writer):
    # A folder that others may enter, unlike pytest's.
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o777)
        saved = Checkpoints(Path(root) / "run" / "checkpoints", writer=writer)
        for step in (1, 2):
            saved.save(step, state(step), score=None, meta={})
        for path in (saved.directory.parent, *saved.directory.parent.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        with without_rights():
            assert equal(saved.restore_newest(state())[0], state(2))
        before = contents(saved.directory.parent)
        closed = saved.directory / place
        closed.chmod(0)
        named = f"{closed}.* cannot be read: Permission denied"
        for restore in (saved.restore_newest, saved.restore_best):
            with without_rights(), pytest.raises(CheckpointError, match=named):
                restore(state())
        closed.chmod(0o777)
        assert contents(saved.directory.parent) == before
        assert saved.damaged() == []
