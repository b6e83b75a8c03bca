"""Several processes as one run: every process trains, process 0 alone reads and writes the run's directory.

Each process has the whole data set within reach, and checks, decodes and keeps its share of it.

The directory need not be shared: what process 0 finds there, and its errors, are sent to the others. Without `start`
all of this is a run of one process.
"""

import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")

LONGEST_WAIT = 7 * 24 * 3600
"""Seconds for which processes on CPUs wait for one that is at work alone, as process 0 is while it scores. XLA's own
limit, 30 minutes, is less than K-means of 100,000 images takes. A process that is gone is noticed at once all the same.
"""


def start() -> None:
    """Join the other processes; to be called before anything touches a device.

    TPU VMs, Slurm, Open MPI and Kubernetes need no settings. Elsewhere the environment names the first process in
    JAX_COORDINATOR_ADDRESS (host:port), their number in JAX_NUM_PROCESSES and this one's in JAX_PROCESS_ID.

    Raises:
        ValueError: the environment does not say which processes there are.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    flags = os.environ.get("XLA_FLAGS", "")
    if "--xla_cpu_collective_timeout_seconds" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_collective_timeout_seconds={LONGEST_WAIT}"
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    count, this = (int(os.environ[name]) if name in os.environ else None for name in names)
    try:
        jax.distributed.initialize(num_processes=count, process_id=this)
    except ValueError as error:
        raise ValueError(
            f"--distributed found no cluster: set JAX_COORDINATOR_ADDRESS, {' and '.join(names)} ({error})"
        ) from error
    _connect()


def _connect() -> None:
    """Connect devices now, while all processes are here.

    CPUs are connected by the first program in which they exchange something, and it fails if one process is 30 seconds
    late, as one is that has something to do alone or compiles for longer.
    """
    multihost_utils.sync_global_devices("start")  # those that stand for their process
    every = NamedSharding(Mesh(np.array(jax.devices()), ("all",)), PartitionSpec("all"))
    ones = jax.make_array_from_callback((jax.device_count(),), every, lambda _: np.ones(1))
    jax.block_until_ready(jax.jit(jnp.sum)(ones))


def is_main() -> bool:
    """Whether this is process 0, the one that reads, writes and reports."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Print on process 0 only."""
    if is_main():
        print(text)


def everywhere(devices: Sequence[Any]) -> list[Any]:
    """This process's devices and as many of every other process, in the same order on all."""
    if jax.process_count() == 1:
        return list(devices)  # which may also be ones to compile for that are not there
    all_devices: list[Any] = []
    for process in range(jax.process_count()):
        all_devices += [d for d in jax.devices() if d.process_index == process][: len(devices)]
    return all_devices


def share(rows: np.ndarray) -> np.ndarray:
    """This process's part of `rows` [n], equally long on all; the last may repeat rows from the beginning."""
    count = jax.process_count()
    part = -(-len(rows) // count)
    return np.resize(rows, (count * part, *rows.shape[1:]))[part * jax.process_index() :][:part]


def gather(parts: np.ndarray, count: int) -> np.ndarray:
    """The results [count, ...] for all rows, on every process, from those [m, ...] for each one's `share`."""
    return np.asarray(multihost_utils.process_allgather(parts, tiled=True))[:count]


def everyones(own: Sequence[T]) -> list[T]:
    """What all processes have, one process after the other, on every process."""
    if jax.process_count() == 1:
        return list(own)
    data = np.frombuffer(pickle.dumps(list(own)), np.uint8)
    longest = multihost_utils.process_allgather(np.int32(len(data))).max()
    parts = multihost_utils.process_allgather(np.pad(data, (0, longest - len(data))))
    return [item for part in parts for item in pickle.loads(part.tobytes())]


def on_main(function: Callable[[], T]) -> T:
    """What `function` returns on process 0, where alone it is called, on every process.

    An exception that it raises there is raised by all. No process returns before process 0 is done.
    """
    if jax.process_count() == 1:
        return function()
    outcome = b""
    if is_main():
        try:
            outcome = pickle.dumps((function(), None))
        except Exception as error:
            outcome = pickle.dumps((None, error))
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(outcome))))
    sent = np.zeros(size, np.uint8)
    if is_main():
        sent[:] = np.frombuffer(outcome, np.uint8)
    result, failure = pickle.loads(multihost_utils.broadcast_one_to_all(sent).tobytes())
    if failure is not None:
        raise failure
    return result


def preempted(turn: int) -> bool:
    """Whether some process was told to stop and this turn, counted by ones on all, is the one after which all stop."""
    return multihost_utils.reached_preemption_sync_point(turn)
