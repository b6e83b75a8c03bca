"""A trained network to use: embeddings of pictures, search among them, and files to share."""

from jaxml.inference.index import Index, Matches
from jaxml.inference.loading import load
from jaxml.inference.model import Model

__all__ = ["Index", "Matches", "Model", "load"]
