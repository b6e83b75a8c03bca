"""Data sets of the library `datasets`: what it has saved, folders of files that it reads, and those of the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from jaxml.data.index import Index
from jaxml.data.sources import records
from jaxml.files import expand, printable

_NAME = r"\w[\w.-]*"
_ADDRESS = re.compile(rf"hf://(?P<path>{_NAME}/{_NAME})(@(?P<revision>{_NAME}(/{_NAME})*))?")
SAVED = ("dataset_dict.json", "state.json")
"""Files by which a folder that `save_to_disk` wrote is known."""


def load(root: str) -> Index:
    """Every picture of the columns `image` and `label`, of all parts together; see `records.index`.

    Pictures stay encoded as they are, and each is read from the library's files when it is needed.

    Args:
        root: a folder that `save_to_disk` wrote, another one that `load_dataset` reads, or `hf://owner/name[@revision]`
            for a data set of the hub.

    Raises:
        ValueError: there is no such data set, it cannot be read, or its columns are others.
        ImportError: the library is not installed (extra `datasets`).
    """
    parts = _parts(root)
    labels = [_label(root, part.features) for part in parts.values()]
    if any(label != labels[0] for label in labels):
        raise ValueError(
            f"--data.root {root!r}: the column label differs between the parts {', '.join(parts)}; cast it to one "
            f"type with cast_column, and save_to_disk"
        )
    found = {name: _records(part) for name, part in parts.items()}
    return records.index(root, found, getattr(labels[0], "names", None) if labels else None)


def _parts(root: str) -> Mapping[str, Any]:
    """The parts of a data set by name; one without parts counts as a single part, called all if it has no name."""
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"--data.root {root!r} is read by datasets, which is not installed: `pip install jaxml[datasets]`"
        ) from None
    address, folder = _ADDRESS.fullmatch(root), expand(root, "--data.root")
    if not address and not (root and folder.is_dir()):
        raise ValueError(
            f"--data.root {root!r} is not a folder; give one that save_to_disk wrote or load_dataset reads, or "
            f"hf://owner/name or hf://owner/name@revision for a data set of the hub"
        )
    try:
        if address:
            found = datasets.load_dataset(**address.groupdict())
        elif any((folder / name).is_file() for name in SAVED):
            found = datasets.load_from_disk(folder)
        else:
            found = datasets.load_dataset(str(folder.absolute()))
    except Exception as error:  # of many kinds, which the library does not list
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split()))
        raise ValueError(
            f"--data.root {root!r} cannot be read by datasets ({reason}); give a data set with records that its "
            f"load_from_disk or load_dataset reads"
        ) from error
    return found if isinstance(found, datasets.DatasetDict) else {str(found.split or "all"): found}


def _label(root: str, features: Mapping[str, Any]) -> Any:
    """The type of the column label.

    Raises:
        ValueError: it holds no classes, or the column image no pictures.
    """
    import datasets

    remedy = "rename_column or cast_column makes such a one, and save_to_disk keeps it"
    if not isinstance(features.get("image"), datasets.Image):
        raise records.refused(root, "image", features, f"pictures (Image): {remedy}")
    label = features.get("label")
    plain = isinstance(label, datasets.Value) and re.fullmatch(r"u?int\d+|(large_)?string", label.dtype)
    if not plain and not isinstance(label, datasets.ClassLabel):
        raise records.refused(root, "label", features, f"a ClassLabel, text or whole numbers: {remedy}")
    return label


def _records(part: Any) -> records.Part:
    """The records of a part, whose pictures are left encoded."""
    import datasets

    # A format that was saved with the data set would turn values into arrays of another library.
    part = part.with_format(None).cast_column("image", datasets.Image(decode=False))
    columns = part.select_columns("image").flatten()
    paths = columns["image.path"][:]

    def read(i: int) -> str | bytes:
        record = columns[i]
        return record["image.bytes"] or record["image.path"] or b""

    files = [path and os.path.basename(path) for path in paths]
    return records.Part(labels=part["label"][:], read=read, files=files)
