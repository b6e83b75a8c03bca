"""Exported networks: one StableHLO program for any batch on CPU, CUDA and TPU, which runs without jaxml."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import export

from jaxml import __version__
from jaxml.files import write_json

PROGRAM, DESCRIPTION = "model.jaxexport", "export.json"
PLATFORMS = ("cpu", "cuda", "tpu")
CALL = """import jax
import numpy as np
from PIL import Image, ImageOps

with open("{program}", "rb") as file:
    embed = jax.jit(jax.export.deserialize(bytearray(file.read())).call)

picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
picture = picture.resize(({side}, {side}), Image.Resampling.BILINEAR)
embeddings = embed(np.asarray(picture)[None])  # float32 [1, {dimensions}]
"""


def write(
    folder: Path, function: Callable[[jax.Array], jax.Array], side: int, dimensions: int, fingerprint: str
) -> None:
    """Write the program and its description into a new folder.

    Args:
        folder: the folder.
        function: from pixels uint8 [b, side, side, 3] to embeddings float32 [b, dimensions].
        side: in pixels.
        dimensions: length of an embedding.
        fingerprint: what tells the network from others.
    """
    (batch,) = export.symbolic_shape("b")
    pixels = jax.ShapeDtypeStruct((batch, side, side, 3), np.uint8)
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(pixels)
    data = bytes(exported.serialize())
    (folder / PROGRAM).write_bytes(data)
    content = {
        "made_by": f"jaxml {__version__}, jax {jax.__version__}",
        "model": fingerprint,
        "program": PROGRAM,
        "sha256": hashlib.sha256(data).hexdigest(),
        "platforms": PLATFORMS,
        "input": {"dtype": "uint8", "shape": ["b", side, side, 3], "pixels": "RGB, 0 to 255, whole pictures"},
        "output": {"dtype": "float32", "shape": ["b", dimensions]},
        "calling_convention_version": exported.calling_convention_version,
        "example": CALL.format(program=PROGRAM, side=side, dimensions=dimensions).splitlines(),
    }
    write_json(folder / DESCRIPTION, content)
