"""Exported networks: one program for any batch, which runs without jaxml, in JAX or in tensorflow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array, export

from jaxml import __version__
from jaxml.files import write_json

DESCRIPTION = "export.json"
PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, SAVED_MODEL = "model.jaxexport", "saved_model"
PICTURE = """
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
picture = picture.resize(({side}, {side}), Image.Resampling.BILINEAR)
"""
IN_JAX = f"""import jax
import numpy as np
from PIL import Image, ImageOps

with open("{PROGRAM}", "rb") as file:
    embed = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
{PICTURE}embeddings = embed(np.asarray(picture)[None])  # float32 [1, {{dimensions}}]
"""
IN_TENSORFLOW = f"""import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

embed = tf.saved_model.load("{SAVED_MODEL}").embed
{PICTURE}embeddings = embed(np.asarray(picture)[None])  # float32 [1, {{dimensions}}]
"""
Embed = Callable[[Array], Array]
"""From pixels uint8 [b, side, side, 3] to embeddings float32 [b, D]."""


def _for_jax(folder: Path, function: Embed, side: int) -> dict[str, Any]:
    """Write StableHLO; needs flatbuffers."""
    (batch,) = export.symbolic_shape("b")
    pixels = jax.ShapeDtypeStruct((batch, side, side, 3), np.uint8)
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(pixels)
    data = bytes(exported.serialize())
    (folder / PROGRAM).write_bytes(data)
    return {
        "program": PROGRAM,
        "sha256": hashlib.sha256(data).hexdigest(),
        "calling_convention_version": exported.calling_convention_version,
    }


def _for_tensorflow(folder: Path, function: Embed, side: int) -> dict[str, Any]:
    """Write a SavedModel, whose signature is the function as well, as TensorFlow Serving calls it."""
    from jaxml.tensorflow import tf

    pixels = tf.TensorSpec((None, side, side, 3), tf.uint8, "pixels")
    module = tf.Module()
    module.embed = tf.function(_converted(function), input_signature=[pixels], autograph=False)
    tf.saved_model.save(module, str(folder / SAVED_MODEL), signatures=module.embed.get_concrete_function())
    return {"program": SAVED_MODEL}


def _converted(function: Embed) -> Callable[..., Any]:
    """The function on tensors of tensorflow."""
    from jax.experimental import jax2tf  # imports tensorflow

    shapes = ["(b, ...)"]
    options = {"with_gradient": False, "native_serialization_platforms": PLATFORMS}
    return jax2tf.convert(function, polymorphic_shapes=shapes, **options)


FORMATS: dict[str, tuple[Callable[[Path, Embed, int], dict[str, Any]], str]] = {
    "jax": (_for_jax, IN_JAX),
    "tensorflow": (_for_tensorflow, IN_TENSORFLOW),
}
"""By name, what writes the program into a folder and returns what DESCRIPTION says of it, and how it is called."""


def write(
    folder: Path, function: Embed, side: int, dimensions: int, fingerprint: str, form: str = "jax"
) -> None:
    """Write the program and its description into a new folder.

    Args:
        folder: the folder.
        function: from pixels uint8 [b, side, side, 3] to embeddings float32 [b, dimensions].
        side: in pixels.
        dimensions: length of an embedding.
        fingerprint: what tells the network from others.
        form: one of FORMATS.

    Raises:
        ImportError: tensorflow is not installed, for the format of that name.
    """
    write_program, call = FORMATS[form]
    content = {
        "made_by": f"jaxml {__version__}, jax {jax.__version__}",
        "model": fingerprint,
        **write_program(folder, function, side),
        "platforms": PLATFORMS,
        "input": {"dtype": "uint8", "shape": ["b", side, side, 3], "pixels": "RGB, 0 to 255, whole pictures"},
        "output": {"dtype": "float32", "shape": ["b", dimensions]},
        "example": call.format(side=side, dimensions=dimensions).splitlines(),
    }
    write_json(folder / DESCRIPTION, content)
