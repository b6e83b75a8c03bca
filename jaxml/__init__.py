"""Deep metric learning on JAX: embeddings that cluster classes never seen in training."""

from importlib.metadata import version

__version__ = version("jaxml")
