"""Files in a run's directory for the check `fuzz` of stress.py; each error must be one line that names the file."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np


def of_runs() -> dict[str, tuple[bytes, Callable[[bytes], object], tuple[type, ...]]]:
    """A sound file, its parser, and the errors that it may raise, by name."""
    from jaxml import config
    from jaxml.config.presets import PRESETS
    from jaxml.errors import CheckpointError
    from jaxml.training import history
    from jaxml.training import input_triplets as triplets

    path = Path(tempfile.gettempdir()) / f"jaxml-fuzz-{os.getpid()}"
    rows = "".join(f'{{"step": {i}, "loss": {0.1 * i}}}\n' for i in range(1, 9))
    lists = io.BytesIO()
    np.savez(lists, triplets=np.arange(24).reshape(8, 3))

    def named(read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def parse(data: bytes) -> object:
            path.write_bytes(data)
            try:
                return read(path)
            except (ValueError, CheckpointError) as error:
                if str(path) not in str(error) or len(str(error).splitlines()) > 1:
                    raise AssertionError(f"not one line with {path}: {error}") from error
                raise
            finally:
                path.unlink()

        return parse

    preset = json.dumps(config.to_dict(PRESETS["cub_squeezenet"]), indent=2).encode()
    return {
        "config": (preset, named(config.load), (ValueError,)),
        "metrics": (rows.encode(), named(history.read), (ValueError,)),
        "triplets": (lists.getvalue(), named(lambda path: triplets._load(path, 8, 24)), (CheckpointError,)),
    }
