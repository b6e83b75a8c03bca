"""One process writes a run: a second one is refused and told of the first, and a process that died holds no lock."""
# ruff: noqa: F811 (fixtures)

import errno
import os
import socket
import subprocess
import sys

import pytest

from jaxml.errors import RunError
from jaxml.training import run, saved, train
from jaxml.training.lock import locked
from tests.training.test_run import config, pictures, rows, untrained  # noqa: F401


def test_a_directory_in_which_a_process_trains_is_refused_with_its_name(config, tmp_path):
    """A new run there as well as a resumed one; readers do not care."""
    workdir = tmp_path / "run"
    untrained(config, workdir, [3])
    holder = rf"run is being trained by process {os.getpid()} on host {socket.gethostname()} since 20.*; wait for it"
    with locked(workdir):
        for resume in (False, True):
            with pytest.raises(RunError, match=holder):
                train.train(config, workdir, resume=resume)
        assert run.load(workdir).checkpoints.steps() == [3]
        saved.load_variables(workdir)
    assert rows(workdir) == [{"step": 1}, {"step": 2}, {"step": 3}]


HOLD = """
import sys
from pathlib import Path
from jaxml.training.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=f"trained by process {process.pid} on"), locked(tmp_path):
            pass
        process.kill()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / "run.lock").read_text()


def test_a_file_system_without_locks_is_said_to_be_one(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path):
        assert "run.lock cannot be locked (No locks available)" in caplog.text


def test_a_new_run_does_not_take_over_what_lies_in_its_directory(config, tmp_path):
    workdir = tmp_path / "run"
    untrained(config, workdir, [3])
    (workdir / "config.json").unlink()
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(
        RunError,
        match=r"holds checkpoints, data\.jsonl, metrics\.jsonl, but no config\.json; choose another",
    ):
        train.train(config, workdir)
    assert all(path.read_bytes() == data for path, data in before.items())
