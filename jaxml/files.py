"""Small text files that a run depends on: the old content or the new one, whole, whatever happens meanwhile."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under another name and move it to its place; a failed write leaves the old one alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hosts that share a folder may have the same process ids.
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as part:
        try:
            part.write(text)
            part.close()
            os.replace(part.name, path)
        finally:
            Path(part.name).unlink(missing_ok=True)
