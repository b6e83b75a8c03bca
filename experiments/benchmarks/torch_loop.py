"""The training loop of training.py in PyTorch, in parts that can be timed.

PyTorch's network (`simple` is written again here), pytorch-metric-learning's triplet loss over all triplets and
its P x K sampler, a DataLoader with one worker process per core that crops, flips and normalises, Adam. On a GPU
channels_last, torch.compile, pinned memory and fused Adam. Like the resident path it starts from decoded pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning import distances, losses, samplers
from torch import nn

from experiments.benchmarks.torch_networks import features, import_torchvision
from jaxml.models import BACKBONES


class Pictures(torch.utils.data.Dataset):
    """Augmented images from an array file, uint8 [N, S, S, 3]; `rows` are those to train on."""

    def __init__(self, file: Path, rows: np.ndarray, labels: np.ndarray, data: Any, row: Any):
        self.file, self.rows, self.labels = file, rows, labels
        self.data, self.mean, self.std = data, row.mean, row.std

    def __len__(self) -> int:
        return len(self.rows)

    # Each worker makes both for itself, because neither can be sent to another process.
    @cached_property
    def pixels(self) -> np.ndarray:
        """The array, memory-mapped."""
        return np.load(self.file, mmap_mode="r")

    @cached_property
    def transform(self) -> Callable[[Any], Any]:
        """The augmentation of one image."""
        import_torchvision()
        from torchvision.transforms import v2

        return v2.Compose(
            [
                v2.RandomResizedCrop(self.data.size, scale=self.data.crop_area, antialias=False),
                *([v2.RandomHorizontalFlip()] if self.data.flip else []),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(self.mean, self.std),
            ]
        )

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(np.array(self.pixels[self.rows[i]])).permute(2, 0, 1)
        return self.transform(image), int(self.labels[i])


def batches(
    pictures: Pictures, batch: int, images_per_class: int, workers: int
) -> Iterator[list[torch.Tensor]]:
    """An endless sequence of batches from worker processes."""
    sampler = samplers.MPerClassSampler(
        pictures.labels, images_per_class, batch, length_before_new_iter=10_000 * batch
    )
    loader = torch.utils.data.DataLoader(
        pictures,
        batch,
        sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="spawn" if workers else None,  # JAX runs threads, which a fork would break
    )
    while True:
        yield from loader


def simple(size: int) -> nn.Module:
    """`jaxml.models.simple.Simple`."""
    side = ((size - 4) // 2 - 4) // 2
    return nn.Sequential(
        *(nn.BatchNorm2d(3), nn.Conv2d(3, 10, 5), nn.BatchNorm2d(10), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(10, 20, 5), nn.BatchNorm2d(20), nn.Dropout2d(0.3), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(20 * side * side, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.5)),
    )


def network(config: Any) -> nn.Module:
    """The configured backbone with random weights and a linear head."""
    name, size = config.model.backbone, config.data.size
    backbone = simple(size) if name == "simple" else features(name, size)
    return nn.Sequential(backbone, nn.Linear(BACKBONES[name].features, config.model.feature_size))


def programs(config: Any, pictures: Pictures) -> dict[str, Callable[[], object]]:
    """`network` (forward and backward), `loss` and `input` alone, `step` on a fixed batch, and `streamed` steps.

    On a GPU these return before the work is done; `finish` waits for it.
    """
    data, per_class = config.data, config.data.images_per_class
    batch = data.classes_per_batch * per_class
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format
    embedder = network(config).to(device, memory_format=layout).train()
    forward = torch.compile(embedder) if device == "cuda" else embedder
    loss = losses.TripletMarginLoss(
        margin=dict(config.loss.options).get("margin", 0.2),
        distance=distances.LpDistance(normalize_embeddings=config.model.normalize),
        triplets_per_anchor="all",
    )
    optimizer = torch.optim.Adam(embedder.parameters(), config.optim.learning_rate, fused=device == "cuda")
    images = torch.randn(batch, 3, data.size, data.size, device=device).contiguous(memory_format=layout)
    labels = torch.arange(data.classes_per_batch, device=device).repeat_interleave(per_class)
    outputs = torch.randn(batch, config.model.feature_size, device=device, requires_grad=True)
    source = batches(pictures, batch, per_class, os.cpu_count() or 1)

    def embed(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=config.model.dtype == "bfloat16"):
            return forward(images).float()

    def network_alone() -> None:
        embedder.zero_grad()
        (embed(images) ** 2).mean().backward()

    def loss_alone() -> None:
        outputs.grad = None
        loss(outputs, labels).backward()

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss(embed(images), labels).backward()
        optimizer.step()

    def streamed() -> None:
        images, labels = next(source)
        images = images.to(device, memory_format=layout, non_blocking=True)
        step(images, labels.to(device, non_blocking=True))

    return {
        "network": network_alone,
        "loss": loss_alone,
        "step": lambda: step(images, labels),
        "input": lambda: next(source),
        "streamed": streamed,
    }


def finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
