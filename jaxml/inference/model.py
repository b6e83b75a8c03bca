"""A trained network as one object: it embeds pictures, is a pure function, and can be saved, searched and shared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import __version__, models
from jaxml.config import Config
from jaxml.data.index import ImageError
from jaxml.inference import card, export, hub, saving
from jaxml.inference.index import Index
from jaxml.inference.pictures import Source, given, none_readable
from jaxml.inference.program import Program
from jaxml.models import saved_network
from jaxml.models.weights.hub import PREFIX
from jaxml.training.checkpoint import flatten
from jaxml.training.learner import Network
from jaxml.training.step import embed_step, prepare

Array = jax.Array


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network; `jaxml.load` opens one.

    Embeddings do not depend on which pictures are embedded together. Batches have a few sizes, and the same picture in
    batches of different sizes has embeddings that differ by rounding alone: on a CPU, by at most 1e-6 in each number
    of an embedding of unit length.

    Example:
        >>> import jaxml
        >>> model = jaxml.load("runs/mine")  # doctest: +SKIP
        >>> model.embed(["one.jpg", "two.jpg"]).shape  # doctest: +SKIP
        (2, 64)
    """

    config: Config
    """What the network was trained with, as far as it embeds: the sections data, model and eval."""
    variables: dict[str, Any]
    """Parameters and statistics of the network, {"params", "batch_stats"}, without those of the loss."""
    about: dict[str, Any]
    """What the model card says of the training: data, loss, step, metrics, pretrained weights."""

    @property
    def side(self) -> int:
        """S, the side in pixels of the square that every picture is resized to before the network's own input."""
        return self.config.data.stored_size

    @cached_property
    def dimensions(self) -> int:
        """D, the length of an embedding."""
        pixels = jax.ShapeDtypeStruct((1, self.side, self.side, 3), np.uint8)
        return int(jax.eval_shape(self.apply, self.variables, pixels).shape[1])

    @property
    def cache(self) -> str:
        """The folder in which embeddings of folders are kept, `data.cache`; empty to keep nothing."""
        return self.config.data.cache

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that embeddings depend on: the arrays, the kind of network, the size of its input."""
        data, model, settings = self.config.data, self.config.model, self.config.eval
        digest = hashlib.sha256()
        digest.update(
            json.dumps(
                {
                    "sides": [data.stored_size, settings.size or data.size],
                    "mirror": settings.mirror,
                    "crops": settings.crops,
                    "dimensions": settings.feature_size or model.feature_size,
                    "network": [model.backbone, model.head, model.pooling, model.normalize, model.dtype],
                }
            ).encode()
        )
        for name, array in self.arrays().items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        """The variables by path, such as `params.head.kernel`."""
        return {name: np.ascontiguousarray(leaf) for name, leaf in flatten(self.variables).items()}

    def apply(self, variables: Any, images: Array) -> Array:
        """Embeddings float32 [b, D] as a pure function, for `jax.jit` and `jax.grad`.

        Args:
            variables: as in `variables`; gradients are taken with respect to their "params".
            images: pixels uint8 [b, S, S, 3], which are resized to the network's input and normalised as in `embed`;
                or float [b, s, s, 3], normalised already as `prepare` does.

        Raises:
            ValueError: the images have another shape or type.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or not _is_pixels_or_float(images.dtype):
            raise ValueError(
                f"images must be uint8 pixels [b, S, S, 3] or normalised float [b, s, s, 3]; got {images.dtype} "
                f"{list(images.shape)}"
            )
        return embed_step(self._network, variables["params"], variables.get("batch_stats", {}), images)

    def prepare(self, images: Array) -> Array:
        """The network's own input float32 [b, s, s, 3] for whole pictures uint8 [b, S, S, 3]: resized and normalised.

        Raises:
            ValueError: the images have another shape or type.
        """
        return prepare(self._network, images)

    def embed(self, pictures: Any, boxes: Any = None) -> np.ndarray:
        """Embeddings of any number of pictures.

        Each is turned upright as its EXIF orientation says, cropped to its box if boxes are given, and resized and
        normalised as it was in training; with `eval.mirror`, the embedding is the mean of both ways round, and with
        `eval.crops` that of several central crops. A bar shows the progress in a terminal.

        Args:
            pictures: paths, Pillow images or uint8 arrays [h, w, 3], a list of these or one of them, or one array
                [n, h, w, 3].
            boxes: float [n, 4], left, top, width and height in pixels of the upright picture; None for whole pictures.

        Returns:
            float32 [n, D].

        Raises:
            ImageError: pictures cannot be read; the message names the first ones and says what to do.
            ValueError: an argument has another form.
        """
        source = given(pictures, boxes)
        embeddings, _, errors = self.embed_readable(source)
        if errors:
            first = " ".join(list(errors.values())[:3])
            more = f" And {len(errors) - 3} more." if len(errors) > 3 else ""
            count = f"{len(errors)} of {len(source.names)} pictures cannot be embedded"
            raise ImageError(f"{count}: {first}{more}")
        return embeddings

    def embed_readable(self, source: Source) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        """Embeddings of the pictures that can be read.

        Returns:
            Embeddings float32 [n, D] of the n pictures that can be read, their places int [n] in the source, and the
            error of each other one by its name.

        Raises:
            ImageError: there are pictures, but none can be read.
        """
        errors: dict[str, str] = {}
        parts = list(self.embed_parts(source, errors))
        if errors and not parts:
            raise none_readable(errors)
        rows = np.array([row for places, _ in parts for row in places], int)
        empty = np.zeros((0, self.dimensions), np.float32)
        return np.concatenate([empty, *(embeddings for _, embeddings in parts)]), rows, errors

    def embed_parts(
        self, source: Source, errors: dict[str, str]
    ) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Yield places [b] and embeddings float32 [b, D] of the pictures that can be read, part by part.

        The errors of the others go into `errors` by name.
        """
        rows: list[int] = []

        def readable() -> Iterator[np.ndarray]:
            for i, pixels in enumerate(source.decode(self.side)):
                if isinstance(pixels, ImageError):
                    errors[source.names[i]] = str(pixels)
                else:
                    rows.append(i)
                    yield pixels

        done = 0
        for part in self._program.stream(readable()):
            yield rows[done : done + len(part)], part
            done += len(part)

    def save(self, folder: str | Path) -> None:
        """Write the network into a folder that `jaxml.load` opens, whole or not at all.

        It holds `model.safetensors`, `config.json` and the model card `README.md`. None of them holds code, a path of
        this machine, or parameters of the loss and of the optimiser, so the folder is safe to share.

        Raises:
            ValueError: the folder holds something else than a saved network.
        """
        with saving.whole_folder(folder, "model") as part:
            self._write(part)

    def index(self, pictures: Any, boxes: Any = None) -> Index:
        """Embed pictures for exact search among them.

        Args:
            pictures: a folder, whose files and those of its subfolders are taken and unreadable ones left out with a
                warning; or anything that `embed` takes.
            boxes: as for `embed`.

        Raises:
            ImageError: one of the pictures in a list cannot be read.
            ValueError: the folder holds no picture, or a picture is given twice.
        """
        return Index.of(self, pictures, boxes)

    def export(self, folder: str | Path, form: str = "jax") -> None:
        """Write the network as a program that runs without jaxml, whole or not at all; see `docs/python.md`.

        It maps pixels uint8 [b, S, S, 3] to embeddings float32 [b, D] for any b, on CPU, CUDA and TPU. `export.json`
        says what S is and how to call it.

        Args:
            folder: a new folder, or that of an earlier export.
            form: jax for a program that JAX reads, tensorflow for a SavedModel, by jax2tf.

        Raises:
            ValueError: the folder holds something else than an exported network, or there is no such form.
            ImportError: tensorflow is not installed (extra `tf`), for the form of that name.
        """
        if form not in export.FORMATS:
            raise ValueError(f"form is {form!r}; give one of {', '.join(export.FORMATS)}")
        function = partial(self.apply, self.variables)
        with saving.whole_folder(folder, "export") as part:
            export.write(part, function, self.side, self.dimensions, self.fingerprint, form)

    def push_to_hub(self, repo: str, *, private: bool = False) -> str:
        """Save the network into a repository of the Hugging Face hub; returns its address, which `jaxml.load` opens.

        Args:
            repo: owner/name; it is made if it does not exist.
            private: whether a new repository is private.

        Raises:
            ValueError: the name has another form.
            ImportError: huggingface_hub is not installed (extra `hub`).
        """
        with TemporaryDirectory() as place:
            self._write(Path(place), f"{PREFIX}{repo}")
            return hub.upload(Path(place), repo, private)

    def _write(self, folder: Path, address: str = card.PLACE) -> None:
        saved_network.write(folder, self.config, self.arrays(), self.about, f"jaxml {__version__}")
        text = card.render(self.config, self.dimensions, self.about, address)
        (folder / "README.md").write_text(text, encoding="utf-8")

    @cached_property
    def _network(self) -> Network:
        return Network(self.config, models.build(self.config.model))

    @cached_property
    def _program(self) -> Program:
        return Program(self.apply, self.variables, self.config.eval.batch_size)


def _is_pixels_or_float(dtype: Any) -> bool:
    return dtype == np.uint8 or bool(jnp.issubdtype(dtype, jnp.floating))
