"""Measures the speed of the backbones, forward and forward + backward with BatchNorm in training mode.

    python -m experiments.benchmarks.backbones --backbones squeezenet1_1 resnet50 --batch 32 --size 128

Columns: images/s (the median over three rows of calls, each beside a row of PyTorch's in the same process), XLA's FLOP
count per image, and the FLOP rate as a share of the device's rate for matrix products, which is measured first. With
torch and torchvision installed, and for EfficientNet-Lite efficientnet-lite-pytorch (extra `peers`), the same network
is measured in both of PyTorch's memory layouts: eager on CPU, with `torch.compile` and, for bfloat16, autocast on a
GPU. On two CPU cores a backbone takes one to three minutes, and `--quick` (SqueezeNet 1.1 alone; on accelerators
ResNet-50 too) takes one. Expect SqueezeNet 1.1 to train at 0.9 times the speed of PyTorch's default layout or better.

A program is called several times in a row, as in a training. In single turns each gives its memory back to the system
while another runs and has to ask for it anew, which on a CPU costs one with large activations up to half its speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import tyro

from experiments.benchmarks.timing import Row, alternating, flops, matmul_rate, ratio, table, write
from jaxml import config, models

LAYOUTS = ("default layout", "channels last")


@dataclass
class Arguments:
    """What to measure."""

    backbones: tuple[str, ...] = tuple(name for name, row in models.BACKBONES.items() if row.classifier)
    """Names from jaxml.models.BACKBONES."""
    batch: int = 32
    """Images in a batch."""
    size: int = 128
    """Side of the images in pixels; 0 is each backbone's own size."""
    dtypes: tuple[str, ...] = ("float32",)
    """float32 or bfloat16."""
    seconds: float = 30.0
    """Seconds for each backbone and pass, at least; 54 calls or more are made."""
    quick: bool = False
    """Fewer backbones and smaller batches, about a minute."""
    peers: bool = True
    """Measure PyTorch too, where it is installed."""
    out: Path = Path("benchmarks")
    """Folder for backbones.json and .md."""


def finish(program: Callable[..., object], *inputs: object) -> None:
    jax.block_until_ready(program(*inputs))


def jax_programs(
    name: str, batch: int, size: int, dtype: str
) -> dict[str, tuple[Callable[[], object], float]]:
    """Forward and forward + backward of the sum of squared features, and their FLOPs."""
    row = models.BACKBONES[name]
    head = "none" if row.classifier else "linear"
    module = models.build(config.Model(backbone=name, head=head, feature_size=row.features, dtype=dtype))
    variables = models.init(module, jax.random.key(0), size)
    images = jax.random.normal(jax.random.key(1), (batch, size, size, 3))
    keys = jax.random.split(jax.random.key(2), batch)

    def loss(params: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        inputs = {**variables, "params": params}
        outputs, updates = module.apply(inputs, images, train=True, keys=keys, mutable=["batch_stats"])
        return (outputs**2).sum(), updates

    programs = {}
    for label, function in (
        ("forward", loss),
        ("forward + backward", jax.value_and_grad(loss, has_aux=True)),
    ):
        compiled = jax.jit(function).lower(variables["params"], images).compile()
        programs[label] = (partial(finish, compiled, variables["params"], images), flops(compiled))
    return programs


def torch_programs(
    name: str, batch: int, size: int, dtype: str, layout: str
) -> dict[str, Callable[[], object]]:
    """The same by PyTorch's network."""
    import torch

    from experiments.benchmarks.torch_networks import features

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = features(name, size)
    memory_format = torch.channels_last if layout == "channels last" else torch.contiguous_format
    network = network.to(device, memory_format=memory_format).train()
    if device == "cuda":
        network = torch.compile(network)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=memory_format)

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def loss() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            return (network(images).float() ** 2).sum()

    def forward() -> None:
        with torch.no_grad():
            loss()
        synchronize()

    def forward_backward() -> None:
        network.zero_grad()
        loss().backward()
        synchronize()

    return {"forward": forward, "forward + backward": forward_backward}


def peers_available(wanted: bool) -> bool:
    if not wanted:
        return False
    try:
        from experiments.benchmarks.torch_networks import import_torchvision

        import_torchvision()
        import efficientnet_lite_pytorch  # noqa: F401
    except ImportError:
        return False
    return True


def measure(name: str, batch: int, size: int, dtype: str, arguments: Arguments, rate: float) -> list[Row]:
    """A row for each pass."""
    is_peer = arguments.peers and models.BACKBONES[name].classifier is not None
    peers = {layout: torch_programs(name, batch, size, dtype, layout) for layout in LAYOUTS if is_peer}
    rows: list[Row] = []
    for label, (run, count) in jax_programs(name, batch, size, dtype).items():
        programs = {"jaxml": run, **{layout: found[label] for layout, found in peers.items()}}
        times = alternating(programs, arguments.seconds, ahead=3, passes=3)
        second = median(times["jaxml"])
        row: Row = {"backbone": name, "px": size, "batch": batch, "dtype": dtype, "pass": label}
        row["GFLOP/image"] = f"{count / batch / 1e9:.2f}"
        row["jaxml images/s"] = f"{batch / second:.1f}"
        row["share of matmul rate"] = f"{count / second / rate:.0%}"
        for layout in peers:
            row[f"PyTorch, {layout}"] = f"{batch / median(times[layout]):.1f}"
            row[f"jaxml / {layout}"] = f"{ratio(times, 'jaxml', layout):.2f}"
        rows.append(row)
    return rows


def main(arguments: Arguments) -> None:
    if arguments.quick:
        small = {"backbones": ("squeezenet1_1",), "batch": 32, "size": 96, "seconds": 4.0}
        if jax.devices()[0].platform != "cpu":
            small |= {"backbones": ("squeezenet1_1", "resnet50"), "batch": 128, "dtypes": ("bfloat16",)}
        arguments = replace(arguments, **small)
    arguments = replace(arguments, peers=peers_available(arguments.peers))
    rows: list[Row] = []
    for dtype in arguments.dtypes:
        rate = matmul_rate(dtype)
        for name in arguments.backbones:
            size = arguments.size or models.BACKBONES[name].size
            rows += measure(name, arguments.batch, size, dtype, arguments, rate)
            print(table(rows[-2:]), flush=True)
    write(arguments.out, "backbones", rows, f"# Backbones\n\n{table(rows)}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__, use_underscores=True))
