"""Downloads weight files from the Hugging Face hub, pinned by commit."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from jaxml.models.weights.readers import WeightFormatError

PREFIX = "hf://"
_NAME = r"\w[\w.-]*"
_ADDRESS = re.compile(
    rf"hf://(?P<repo>{_NAME}/{_NAME})/(?P<file>{_NAME}(/{_NAME})*)@(?P<revision>[0-9a-f]{{40}})"
)


def fetch(address: str) -> Path:
    """The local copy of `hf://owner/repo/path/file@commit`, downloaded if it is not in the hub's cache.

    The commit is the full hash of 40 digits, because a branch or tag may change after a run is finished.

    Raises:
        ValueError: the address has another form.
        ImportError: huggingface_hub is not installed (extra `hub`).
        WeightFormatError: the file is damaged, its hash is not the hub's.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(
            f"--model.weights {address!r} is not of the form hf://owner/repo/file@<commit, 40 digits>"
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ImportError(f"{address}: needs huggingface_hub, `pip install jaxml[hub]`") from None
    path = Path(hf_hub_download(match["repo"], match["file"], revision=match["revision"]))
    _check(path, address)
    return path


def _check(path: Path, address: str) -> None:
    """Compare a file with the hash that is its name in the hub's cache: SHA-256 of a large file, else git's SHA-1."""
    name = path.resolve().name  # the name by which we know the file is a link to it
    data = path.read_bytes()
    if re.fullmatch("[0-9a-f]{64}", name):
        digest = hashlib.sha256(data).hexdigest()
    elif re.fullmatch("[0-9a-f]{40}", name):
        digest = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    else:
        return  # on a file system without links, the file does not have that name
    if digest != name:
        raise WeightFormatError(
            f"{address}: {path} is damaged: its hash is {digest}, not {name}; delete {path.resolve()} and fetch it "
            f"again"
        )
