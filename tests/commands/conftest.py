"""Fixtures of a made-up package of weights."""

from tests.made_up_package import installed, uninstall

__all__ = ["installed", "uninstall"]
