"""The benchmark of the training step: every program that it times can be called, and memory is read."""

import dataclasses

import jax
import pytest

from experiments.benchmarks import training, training_parts
from jaxml.config import Data, Model
from jaxml.data.images import open_images
from tests.made_up_pictures import write_classes

SMALL = dataclasses.replace(
    training.DEFAULT,
    data=Data(classes_per_batch=3, images_per_class=2, stored_size=32, size=32),
    model=Model(backbone="simple", feature_size=8),
)


def test_every_program_runs(tmp_path):
    write_classes(tmp_path)
    data = dataclasses.replace(SMALL.data, source="folder", root=str(tmp_path), split="0-5/6-7/8-9")
    config = dataclasses.replace(SMALL, data=data)
    parts, paths = training_parts.ours(config, open_images(data), jax.local_devices()[:1])
    assert {*parts} == {"input", "network", "loss", "step, fixed batch", "step, resident"}
    for program in (parts | paths).values():
        program()
    assert parts["step, fixed batch"].flops > 0


def test_memory_of_a_step():
    found = training_parts.step_memory(SMALL, 6, to_run=True)
    assert {*found} <= {*training_parts.SIZES}
    assert found[training_parts.SIZES[0]] > 0


@pytest.mark.peers
@pytest.mark.parametrize("backbone", ["simple", "squeezenet1_1", "efficientnet_lite0"])
def test_pytorch_has_the_same_networks(backbone):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_loop

    model = dataclasses.replace(SMALL.model, backbone=backbone)
    network = torch_loop.network(dataclasses.replace(SMALL, model=model))
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 8)
