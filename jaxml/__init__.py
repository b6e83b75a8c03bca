"""Deep metric learning on JAX: embeddings that cluster classes never seen in training."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxml.inference import Index, Model, load

__all__ = ["Index", "Model", "load"]

try:
    __version__ = version("jaxml")
except PackageNotFoundError:  # a checkout on the path that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """What `__all__` lists, imported when it is first asked for: JAX takes a second to import."""
    if name not in __all__:
        raise AttributeError(f"module 'jaxml' has no attribute {name!r}")
    return getattr(import_module("jaxml.inference"), name)
