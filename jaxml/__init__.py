"""Deep metric learning on JAX: embeddings that cluster classes never seen in training."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("jaxml")
except PackageNotFoundError:  # a checkout on the path that is not installed
    __version__ = "0+unknown"
