"""Made-up weights under torchvision's names, and the outputs of torchvision's networks with them.

`python tests/models/weights/torchvision_weights.py` (extra `peers`) writes the two fixtures again.
"""

import json
import zlib
from pathlib import Path

import numpy as np

from experiments.benchmarks.torch_networks import import_torchvision

FIXTURES = Path(__file__).parents[2] / "fixtures"
SHAPES = FIXTURES / "torchvision_shapes.json"
OUTPUTS = FIXTURES / "torchvision_outputs.npz"
NAMES = ("squeezenet1_0", "squeezenet1_1", "resnet50", "inception_v3")
ODD_SIZE = (113, 97)


def shapes(name: str) -> dict[str, list[int]]:
    return json.loads(SHAPES.read_text())[name]


def weights(name: str, table: dict[str, list[int]] | None = None) -> dict[str, np.ndarray]:
    """Weights and BatchNorm statistics that keep activations near 1; every name its own random stream."""
    return {key: _draw(key, shape) for key, shape in (table or shapes(name)).items()}


def _draw(key: str, shape: list[int]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(key.encode()))
    kind = key.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.array(7, np.int64)
    if kind == "running_var" or (kind == "weight" and len(shape) == 1):
        # A small scale ends each residual branch, as in a trained network: without it rounding errors explode.
        scale = 0.2 if key.endswith(("bn3.weight", "downsample.1.weight")) else 1.0
        return (scale * random.uniform(0.5, 1.0, shape)).astype(np.float32)
    if len(shape) > 1:
        return (random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    return (0.1 * random.standard_normal(shape)).astype(np.float32)


def images(name: str, size: tuple[int, int], batch: int = 2) -> np.ndarray:
    """Normalised images, NHWC."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return random.standard_normal((batch, *size, 3)).astype(np.float32)


def nchw(x: np.ndarray):
    import torch

    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def torch_network(name: str):
    """torchvision's network with `weights(name)`, in evaluation mode."""
    torchvision = import_torchvision()
    import torch

    options = {"init_weights": False, "transform_input": False} if name == "inception_v3" else {}
    network = torchvision.models.get_model(name, weights=None, **options)
    table = {key: list(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict({key: torch.from_numpy(value) for key, value in weights(name, table).items()})
    return network.eval()


def torch_outputs(network, x) -> tuple:
    """Pooled features and logits of a tensor of NCHW images."""
    maps = []
    layer = {"SqueezeNet": "features", "ResNet": "layer4", "Inception3": "Mixed_7c"}[type(network).__name__]
    hook = getattr(network, layer).register_forward_hook(lambda *call: maps.append(call[2]))
    logits = network(x)
    hook.remove()
    if isinstance(logits, tuple):
        logits = logits.logits
    return maps[0].mean((2, 3)), logits


def main() -> None:
    import torch

    table, outputs = {}, {}
    for name in NAMES:
        network = torch_network(name)
        table[name] = {key: list(value.shape) for key, value in network.state_dict().items()}
        with torch.no_grad():
            features, logits = torch_outputs(network, nchw(images(name, ODD_SIZE)))
        outputs[f"{name}_features"], outputs[f"{name}_logits"] = features.numpy(), logits.numpy()
    FIXTURES.mkdir(exist_ok=True)
    SHAPES.write_text(json.dumps(table, separators=(",", ":")))
    np.savez_compressed(OUTPUTS, **outputs)


if __name__ == "__main__":
    main()
