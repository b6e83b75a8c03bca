"""Speed of the backbones, forward and forward + backward (training-mode BatchNorm), as a Markdown table.

    python experiments/benchmark_backbones.py --backbones squeezenet1_1 resnet50 --batch 32 --size 128

Columns: images/s (median of `--repeats` runs, taken in turn with PyTorch's in the same process), XLA's FLOP count per
image and the share of the device's matrix-product rate, measured first, that it makes of it. With torch and
torchvision installed (extra `peers`) the same network follows in both of PyTorch's memory layouts; eager on CPU,
`torch.compile` and, for bfloat16, autocast on a GPU. On two CPU cores the four backbones take about five minutes;
expect SqueezeNet 1.1 to train at 0.9x PyTorch's default layout or better.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxml import config, models

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass
class Arguments:
    """What to measure."""

    backbones: tuple[str, ...] = ("squeezenet1_0", "squeezenet1_1", "resnet50", "inception_v3")
    """Names from jaxml.models.BACKBONES."""
    batch: int = 32
    """Images in a batch."""
    size: int = 128
    """Side of the images in pixels; 0 takes each backbone's own."""
    dtypes: tuple[str, ...] = ("float32",)
    """float32, bfloat16."""
    repeats: int = 7
    """Timed runs of each program."""
    peers: bool = True
    """Measure PyTorch too, where it is installed."""


def matmul_rate(dtype: Any, n: int) -> float:
    """FLOP/s of an n x n matrix product, best of five."""
    x = jnp.ones((n, n), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * n**3 / min(seconds(lambda: jax.block_until_ready(product(x, x))) for _ in range(6))


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


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
        flops = (compiled.cost_analysis() or {}).get("flops", float("nan"))
        programs[label] = (partial(finish, compiled, variables["params"], images), flops)
    return programs


def torch_programs(
    name: str, batch: int, size: int, dtype: str, layout: str
) -> dict[str, Callable[[], object]]:
    """The same by torchvision's network."""
    import torch
    from torchvision_import import import_torchvision

    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = {"init_weights": False, "aux_logits": False} if name == "inception_v3" else {}
    network = import_torchvision().models.get_model(name, weights=None, **options)
    # The features are what both compute: no classifier.
    if name.startswith("squeezenet"):
        network.classifier = torch.nn.AdaptiveAvgPool2d((1, 1))
    else:
        network.fc = torch.nn.Identity()
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
        from torchvision_import import import_torchvision

        import_torchvision()
    except ImportError:
        return False
    return True


def main(arguments: Arguments) -> None:
    device = jax.devices()[0]
    with_peers = peers_available(arguments.peers)
    layouts = ("default layout", "channels last") if with_peers else ()
    print(f"jax {jax.__version__}, {device.device_kind}, batch {arguments.batch}\n")
    columns = ["backbone", "px", "dtype", "pass", "GFLOP/image", "jaxml images/s", "share of matmul rate"]
    columns += [f"PyTorch, {layout}" for layout in layouts]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for dtype in arguments.dtypes:
        rate = matmul_rate(DTYPES[dtype], 1024 if device.platform == "cpu" else 8192)
        for name in arguments.backbones:
            size = arguments.size or models.BACKBONES[name].size
            ours = jax_programs(name, arguments.batch, size, dtype)
            is_peer = with_peers and models.BACKBONES[name].classifier is not None
            theirs = [
                torch_programs(name, arguments.batch, size, dtype, layout) if is_peer else {}
                for layout in layouts
            ]
            for label, (run, flops) in ours.items():
                runs = [run, *(programs[label] for programs in theirs if programs)]
                times = np.array([[seconds(run) for run in runs] for _ in range(arguments.repeats + 1)])[1:]
                medians = [statistics.median(column) for column in times.T]
                speeds = [
                    f"{arguments.batch / median:.1f} ({median / medians[0]:.2f})" for median in medians[1:]
                ]
                cells = [name, size, dtype, label, f"{flops / arguments.batch / 1e9:.2f}"]
                cells += [f"{arguments.batch / medians[0]:.1f}", f"{flops / medians[0] / rate:.0%}"]
                cells += speeds or ["-"] * len(layouts)
                print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if with_peers:
        print("\nIn brackets: how many times as fast jaxml is.")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
