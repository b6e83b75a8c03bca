"""Signals to stop: raised where nothing is to be saved, a flag where the loop saves first, and a process that ends."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxml.errors import Preempted
from jaxml.training.preemption import StopSignals

pytestmark = pytest.mark.usefixtures("heeded_signals")

SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: r"Ctrl-C \(SIGINT\)", signal.SIGHUP: "SIGHUP"}
signals = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


def caught_by_nobody(number):
    with StopSignals() as stop:
        stop.saved = 3
        try:
            os.kill(os.getpid(), number)
        except Exception:
            pytest.fail("code that catches every Exception must not take it for its own error")


@signals
def test_outside_the_loop_it_ends_the_run_at_once(number):
    before = signal.getsignal(number)
    named = rf"stopped by {SIGNALS[number]}; step 3 is saved, continue with --resume"
    with pytest.raises(Preempted, match=named):
        caught_by_nobody(number)
    assert signal.getsignal(number) is before


def flagged(number, after):
    with StopSignals() as stop, stop.steps():
        os.kill(os.getpid(), number)
        after.append(stop.received)


@signals
def test_in_the_loop_it_is_a_flag_until_the_loop_ends(number):
    after = []
    with pytest.raises(Preempted, match=SIGNALS[number]):
        flagged(number, after)
    assert after == [True]


def test_what_the_process_was_told_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop, stop.steps():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            assert not stop.received
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_handlers_are_left_alone():
    seen = []

    def train():
        with StopSignals(), StopSignals().steps():
            seen.append([signal.getsignal(number) for number in SIGNALS])

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [[signal.getsignal(number) for number in SIGNALS]]


STUCK = """
import os, signal, sys, time
from jaxml.training import preemption
preemption.GRACE = 0.2
with preemption.StopSignals() as stop, stop.steps():
    stop.saved = 7
    print("ready", flush=True)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pass
"""


def stuck():
    """A process that never looks at the flag."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_process_that_does_not_come_back_after_sigterm_is_ended():
    with stuck() as process:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=25)
    assert process.returncode == 75
    assert said.strip() == "stopped by SIGTERM; step 7 is saved, continue with --resume"


@pytest.mark.parametrize("second", SIGNALS, ids=lambda number: number.name)
def test_the_second_signal_ends_the_process_at_once(second):
    with stuck() as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.6)
        assert process.poll() is None, "Ctrl-C has no time limit in the loop, for a step may take long"
        process.send_signal(second)
        _, said = process.communicate(timeout=5)
    assert process.returncode == 75
    assert "Ctrl-C (SIGINT): the step is finished and saved; a second signal ends at once" in said
    assert said.strip().endswith("stopped by Ctrl-C (SIGINT); step 7 is saved, continue with --resume")


def test_a_signal_that_comes_twice_is_one():
    """A terminal that is closed sends SIGHUP twice, launchers pass on the Ctrl-C that their children get as well."""
    with stuck() as process:
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.02)
        time.sleep(0.4)
        assert process.poll() is None
        process.kill()


ON_TERMINAL = """
import os, sys, time
from jaxml.errors import Preempted
from jaxml.training.preemption import StopSignals
os.close(os.open(os.ttyname(1), os.O_RDWR))  # now it is the terminal of this process
try:
    with StopSignals() as stop, stop.steps():
        print("ready", flush=True)
        while not stop.received:
            pass
        print("saving", flush=True)  # where the terminal is gone
        open(sys.argv[1], "w").write("saved")
except Preempted:
    sys.exit(75)
"""


def test_a_closed_terminal_does_not_keep_a_run_from_saving(tmp_path):
    terminal, end = pty.openpty()
    command = [sys.executable, "-c", ON_TERMINAL, str(tmp_path / "file")]
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, start_new_session=True)
    os.close(end)
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)
    assert process.wait(timeout=20) == 75
    assert (tmp_path / "file").read_text() == "saved"


INTERRUPTED = """
import gc, signal, sys, time
from jaxml.commands.process import command
from jaxml.training import preemption
preemption.GRACE = 0.3
def dropped(words):
    gc.callbacks.append(lambda *_: gc.callbacks.pop() and signal.raise_signal(signal.SIGINT))
    gc.collect()
    time.sleep(30)
def raised(words):
    signal.raise_signal(signal.SIGINT)
command(globals()[sys.argv[1]])
"""


@pytest.mark.parametrize("way", ["raised", "dropped"])
def test_ctrl_c_before_a_run_is_open_ends_in_one_line(way):
    """Also where the exception is dropped, as in the garbage collector's callbacks, of which jax has one."""
    command = [sys.executable, "-c", INTERRUPTED, way]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=25)
    assert done.returncode == 130
    assert done.stderr.strip().splitlines()[-1] == "stopped by Ctrl-C (SIGINT); give the same command again"
    assert way == "dropped" or len(done.stderr.strip().splitlines()) == 1
