"""Accelerators to plan for: published figures of their chips, and how to compile for chips that are absent."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

GIB = 2**30
NUMBER, ARRANGEMENT = r"[1-9]\d{0,4}", r"[1-9]\d{0,2}(x[1-9]\d{0,2}){1,2}"


COMPILE_ONLY = {
    # The process itself computes on the CPU. A TPU's compiler must not look for a TPU, and may share its library.
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}
"""Environment of a process that compiles for chips that are absent."""


@dataclass(frozen=True)
class Chip:
    """Published figures of one chip."""

    title: str
    memory: float
    """Bytes of main memory that a program may use."""
    bandwidth: float = math.inf
    """Bytes that main memory reads or writes in a second."""
    operations: dict[str, float] = field(default_factory=dict)
    """Operations per second of matrix products, by precision as in `operations.operations`."""
    link: float = math.inf
    """Bytes that the chip can send to the other chips in a second."""
    example: str = ""
    """An example of `--for` with several chips."""


def _tpu(title: str, memory: float, bandwidth: float, bfloat16: float, link: float, example: str) -> Chip:
    """Figures of a TPU, which multiplies float32 as one (default), three (high) or six (highest) bfloat16 products."""
    passes = {"bfloat16": 1, "float32": 1, "float32_high": 3, "float32_highest": 6}
    rates = {precision: bfloat16 / count for precision, count in passes.items()}
    return Chip(title, memory, bandwidth, rates, link, example)


CHIPS = {
    # docs.cloud.google.com/tpu/docs/v5e: 16 GB, 819 GB/s, 197 TFLOP/s, 400 GB/s of links counted both ways. The
    # compiler gives a program 15.75 GiB.
    "v5e": _tpu("TPU v5e", 15.75 * GIB, 819e9, 197e12, 200e9, "v5e:4x4"),
    # docs.cloud.google.com/tpu/docs/v5p-training: 95 GiB, 2,765 GB/s, 459 TFLOP/s, 1,200 GB/s.
    "v5p": _tpu("TPU v5p", 95 * GIB, 2765e9, 459e12, 600e9, "v5p:2x2x2"),
    # docs.cloud.google.com/tpu/docs/v6e: 32 GB, 1,638 GB/s, 918 TFLOP/s, 800 GB/s.
    "v6e": _tpu("TPU v6e", 32e9, 1638e9, 918e12, 400e9, "v6e:4x4"),
    # NVIDIA H100 SXM data sheet, without sparsity: 989 TFLOP/s bfloat16, 494 TF32 (what XLA takes by default), 67
    # float32, 3.35 TB/s, NVLink 900 GB/s both ways. Of its 79 GiB jax takes three quarters by default.
    "h100": Chip(
        "NVIDIA H100 SXM",
        0.75 * 84_942_979_072,
        3.35e12,
        {"bfloat16": 989e12, "float32": 494e12, "float32_high": 67e12, "float32_highest": 67e12},
        450e9,
        "h100:8",
    ),
}
"""Chips whose compilers run on any machine."""


@dataclass(frozen=True)
class Target:
    """Chips to compile for."""

    name: str
    """As the user gave it."""
    kind: str
    """A key of CHIPS, or cpu."""
    chip: Chip
    count: int

    def environment(self) -> dict[str, str]:
        """Environment of a process that compiles for these chips, whatever devices this machine has."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "TPU_", "LIBTPU_"))}
        return {
            **clean,
            **COMPILE_ONLY,
            **(
                {"XLA_FLAGS": f"--xla_force_host_platform_device_count={self.count}"}
                if self.kind == "cpu"
                else {}
            ),
        }

    def check_installed(self) -> None:
        """Check that the compiler is installed.

        Raises:
            ValueError: it is not; the message says what to install.
        """
        module, extra = {"cpu": ("jax", ""), "h100": ("jax_plugins.xla_cuda13", "plan-gpu")}.get(
            self.kind, ("libtpu", "plan-tpu")
        )
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ValueError(f"--for {self.name} needs its compiler: `pip install jaxml[{extra}]`")

    def devices(self) -> list[Any]:
        """The chips as devices to compile for; call it in a process with `environment`.

        Raises:
            ValueError: there is no such arrangement of chips.
        """
        import jax
        from jax.experimental import topologies

        if self.kind == "cpu":
            return jax.devices()[: self.count]
        if self.kind == "h100":
            text = resources.files("jaxml.planning").joinpath("h100_sxm.txtpb").read_text()
            # A host has eight GPUs.
            shape = f"1x{-(-self.count // 8)}x{min(self.count, 8)}"
            topology = topologies.get_topology_desc(platform="cuda", target_config=text, topology=shape)
            return list(topology.devices)
        _, _, shape = self.name.partition(":")
        if self.count == 1:  # one chip of a host of four
            options: dict[str, Any] = {
                "topology_name": f"{self.kind}:1x1",
                "chips_per_host_bounds": [1, 1, 1],
            }
        else:
            options = {"topology_name": f"{self.kind}:{shape}"}
        try:
            return list(topologies.get_topology_desc(platform="tpu", **options).devices)
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(
                f"--for {self.name}: no such arrangement of chips ({_first_line(error)}); try {self.chip.example}"
            ) from None


def target(name: str) -> Target:
    """The chips that --for names: v5e or v5e:4x4 (also v5p, v6e), h100 or h100:8, cpu or cpu:4.

    Raises:
        ValueError: the name is another one, or the arrangement of chips has another form.
    """
    kind, colon, shape = name.partition(":")
    if kind == "cpu":
        from jaxml.data.resident import host_memory

        chip = Chip("CPU", host_memory(), example="cpu:4")
    elif kind in CHIPS:
        chip = CHIPS[kind]
    else:
        raise ValueError(
            f"--for {name}: unknown; give {', '.join([*(c.example for c in CHIPS.values()), 'cpu'])}"
        )
    numbered = kind in ("cpu", "h100")
    form, said = (NUMBER, "a number of chips") if numbered else (ARRANGEMENT, "their arrangement")
    if colon and not re.fullmatch(form, shape):
        raise ValueError(f"--for {name}: give {said}, such as {chip.example}")
    count = math.prod(int(x) for x in (shape or "1").split("x"))
    if kind == "h100" and count > 8 and count % 8:
        raise ValueError(f"--for {name}: give at most 8, or a multiple of 8, the GPUs of a host")
    if kind == "cpu":
        # The devices divide the host's memory.
        chip = Chip(chip.title, chip.memory / count, example=chip.example)
    return Target(name, kind, chip, count)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
