"""tensorflow, imported in this one place, and kept from the memory of accelerators."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
try:
    import tensorflow as tf
except ImportError as error:
    raise ImportError(f"this needs tensorflow, `pip install jaxml[tf]` ({error})") from None

# Set before any operation, lest tensorflow take the accelerator's memory.
tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
