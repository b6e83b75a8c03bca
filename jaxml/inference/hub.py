"""Saved networks on the Hugging Face hub: downloads and uploads, by huggingface_hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jaxml.models import saved_network
from jaxml.models.weights.hub import PREFIX

_NAME = r"\w[\w.-]*"
_REPO = re.compile(f"{_NAME}/{_NAME}")
_ADDRESS = re.compile(rf"hf://(?P<repo>{_NAME}/{_NAME})(@(?P<revision>{_NAME}(/{_NAME})*))?")


def download(address: str) -> Path:
    """The local copy of the saved network `hf://owner/repo[@revision]`; only its two files are fetched.

    Raises:
        ValueError: the address has another form.
        ImportError: huggingface_hub is not installed (extra `hub`).
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"{address!r} is not of the form hf://owner/repo or hf://owner/repo@revision")
    files = [saved_network.CONFIG, saved_network.ARRAYS]
    found = _library(address).snapshot_download(
        match["repo"], revision=match["revision"], allow_patterns=files
    )
    return Path(found)


def upload(folder: Path, repo: str, private: bool) -> str:
    """Upload a saved network to a repository, which is made if it does not exist; returns its address `hf://...`.

    Raises:
        ValueError: the name of the repository has another form.
        ImportError: huggingface_hub is not installed (extra `hub`).
    """
    if not _REPO.fullmatch(repo):
        raise ValueError(f"the repository {repo!r} is not of the form owner/repo")
    api = _library(f"{PREFIX}{repo}").HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Network trained with jaxml")
    return f"{PREFIX}{repo}"


def _library(address: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError(f"{address}: needs huggingface_hub, `pip install jaxml[hub]`") from None
    return huggingface_hub
