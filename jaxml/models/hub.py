"""Weight files on the Hugging Face hub, pinned by commit."""

from __future__ import annotations

import re
from pathlib import Path

PREFIX = "hf://"
_NAME = r"\w[\w.-]*"
_ADDRESS = re.compile(
    rf"hf://(?P<repo>{_NAME}/{_NAME})/(?P<file>{_NAME}(/{_NAME})*)@(?P<revision>[0-9a-f]{{40}})"
)


def fetch(address: str) -> Path:
    """Local copy of `hf://owner/repo/path/file@commit`; needs huggingface_hub (extra `hub`).

    The commit is the full hash of 40 digits: a branch or tag could change under a finished run. ValueError for
    another form, ImportError without huggingface_hub.
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
    return Path(hf_hub_download(match["repo"], match["file"], revision=match["revision"]))
