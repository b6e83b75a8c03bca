"""Weight files on the Hugging Face hub, pinned by commit."""

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
    """Local copy of `hf://owner/repo/path/file@commit`; needs huggingface_hub (extra `hub`).

    The commit is the full hash of 40 digits: a branch or tag could change under a finished run. ValueError for
    another form, ImportError without huggingface_hub, WeightFormatError for a file whose hash is not the hub's.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(
            f"model.weights: {address!r} is not of the form hf://owner/repo/file@<commit, 40 digits>"
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ImportError(f"{address}: needs huggingface_hub, `pip install jaxml[hub]`") from None
    path = Path(hf_hub_download(match["repo"], match["file"], revision=match["revision"]))
    _check(path, address)
    return path


def _check(path: Path, address: str) -> None:
    """Compare a download with the hash by which the hub's cache names it: SHA-256 of large files, git's of others."""
    name = path.resolve().name  # the cache links to it from the file's own name
    data = path.read_bytes()
    if re.fullmatch("[0-9a-f]{64}", name):
        found = hashlib.sha256(data).hexdigest()
    elif re.fullmatch("[0-9a-f]{40}", name):
        found = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    else:
        return  # a file system without links keeps no such name
    if found != name:
        raise WeightFormatError(
            f"{address}: {path} is damaged: its hash is {found}, not {name}; delete {path.resolve()} and fetch it again"
        )
