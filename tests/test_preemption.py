"""SIGTERM: raised where nothing is to be saved, a flag where the loop saves first, and a process that ends in time."""

import os
import signal
import subprocess
import sys

import pytest

from jaxml.preemption import Preempted, Sigterm


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def caught_by_nobody():
    with Sigterm() as sigterm:
        sigterm.saved = "step 3 is saved"
        try:
            terminate()
        except Exception:
            pytest.fail("code that catches every Exception must not take it for its own error")


def test_outside_the_loop_it_ends_the_run_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match=r"stopped by SIGTERM; step 3 is saved, continue with --resume"):
        caught_by_nobody()
    assert signal.getsignal(signal.SIGTERM) is before


def flagged(after):
    with Sigterm() as sigterm, sigterm.steps():
        terminate()
        after.append(sigterm.received)


def test_in_the_loop_it_is_a_flag_until_the_loop_ends():
    after = []
    with pytest.raises(Preempted):
        flagged(after)
    assert after == [True]


STUCK = """
import os, signal, time
from jaxml import preemption
preemption.GRACE = 0.2
with preemption.Sigterm() as sigterm, sigterm.steps():
    sigterm.saved = "step 7 is saved"
    os.kill(os.getpid(), signal.SIGTERM)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pass
"""


def test_a_process_that_does_not_come_back_is_ended():
    done = subprocess.run(
        [sys.executable, "-c", STUCK], capture_output=True, text=True, check=False, timeout=25
    )
    assert done.returncode == 75
    assert done.stderr.strip() == "stopped by SIGTERM; step 7 is saved, continue with --resume"
