"""Two processes of two CPU devices each, which find each other as those of `jaxml train --distributed` do."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(first, second):
    """Python with the words of the first and of the second process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = []
    for i, words in enumerate((first, second)):
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(i),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def finish(processes):
    """Exit codes, and what each has printed until it ended or took too long."""
    try:
        logs = [_printed(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], logs


def _printed(process):
    try:
        return process.communicate(timeout=400)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]
