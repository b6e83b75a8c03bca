"""Compiles a training step in a process of its own, so that a crash of the compiler ends in an error of one line."""

from __future__ import annotations

import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxml.config import Config
from jaxml.errors import RunError
from jaxml.planning.account import Account, account
from jaxml.planning.hlo import parse
from jaxml.planning.targets import Target


@dataclass(frozen=True)
class Request:
    """What to compile."""

    config: Config
    target: Target
    images: int
    classes: int


@dataclass(frozen=True)
class Memory:
    """Bytes of a chip's main memory that a program takes."""

    images: float
    """Resident pixels, or those of the batch."""
    state: float
    """Parameters, statistics and the optimiser's state."""
    temporary: float
    """Activations, gradients, and whatever else is kept during a step."""
    program: float
    """Instructions, and results that do not replace an argument."""

    @property
    def total(self) -> float:
        """All of them together."""
        return self.images + self.state + self.temporary + self.program


@dataclass(frozen=True)
class Compiled:
    """A program that was compiled."""

    memory: Memory
    account: Account
    seconds: float
    """Time of the compilation."""


@dataclass(frozen=True)
class TooLarge:
    """A program that the compiler refused, because memory is too small."""

    needed: float
    """Bytes that it would take, if the compiler says so; else 0."""
    seconds: float


def run(request: Request) -> Compiled | TooLarge:
    """Compile in a new process.

    Raises:
        ValueError: the compiler is not installed, or the configuration or the target is invalid.
        RunError: the compiler failed or crashed.
    """
    target = request.target
    target.check_installed()
    with tempfile.TemporaryDirectory(prefix="jaxml-plan-") as folder:
        asked, answer = Path(folder) / "asked", Path(folder) / "answer"
        asked.write_bytes(pickle.dumps(request))
        command = [sys.executable, "-m", "jaxml.planning.compiler", str(asked), str(answer)]
        done = subprocess.run(
            command, env=target.environment(), capture_output=True, text=True, errors="replace"
        )
        if answer.exists():
            found = pickle.loads(answer.read_bytes())
            if isinstance(found, ValueError):
                raise found
            return found
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        hint = (
            "; for convolutions it may need cuDNN: pip install nvidia-cudnn-cu13"
            if target.kind == "h100"
            else ""
        )
        raise RunError(f"the compiler for {target.name} crashed ({name}){hint}")
    lines = done.stderr.strip().splitlines() or ["no message"]
    raise RunError(f"the compiler for {target.name} failed: {lines[-1][:300]}")


def describe(compiled: Any, devices: int) -> tuple[Memory, Account]:
    """Memory and account of a program that jax has compiled for this many devices."""
    module, sizes = parse(compiled.as_text()), compiled.memory_analysis()
    pixels = sum(
        i.buffers[0].stored
        for i in module.entry.parameters.values()
        if i.buffers[0].dtype == "u8" and len(i.buffers[0].dims) >= 3
    )
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    memory = Memory(
        images=pixels,
        state=sizes.argument_size_in_bytes - pixels,
        temporary=sizes.temp_size_in_bytes,
        program=sizes.generated_code_size_in_bytes + results,
    )
    return memory, account(module, devices)


def _compile(request: Request) -> Compiled | TooLarge:
    import jax

    from jaxml.planning import program

    start = time.perf_counter()
    devices = request.target.devices()
    lowered = program.lower(request.config, devices, request.images, request.classes)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return TooLarge(_needed(str(error)), time.perf_counter() - start)
    seconds = time.perf_counter() - start
    return Compiled(*describe(compiled, len(devices)), seconds)


def _needed(message: str) -> float:
    """Bytes in a message such as "Used 33.51G of 15.75G hbm" or "HLO temporaries (144.75G)"."""
    found = re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT])", message)
    return float(found.group(1)) * 2.0 ** {"K": 10, "M": 20, "G": 30, "T": 40}[found.group(2)] if found else 0


def main(asked: str, answer: str) -> None:
    """What the new process does: compile the pickled request in one file, and pickle the answer into another."""
    try:
        found: Any = _compile(pickle.loads(Path(asked).read_bytes()))
    except ValueError as error:
        found = error
    Path(answer).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    # Imported under its own name, by which the other process finds the pickled classes.
    from jaxml.planning import compiler

    compiler.main(*sys.argv[1:])
