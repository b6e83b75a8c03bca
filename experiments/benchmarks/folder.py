"""Measures what the command does with a folder of many pictures: embedding, a kill in the middle, clusters, a search.

    python -m experiments.benchmarks.folder --model runs/quickstart
    python -m experiments.benchmarks.folder --model runs/quickstart --pictures 10000 --kill_after 20

Draws the pictures into WORKDIR/pictures if they are not there. `jaxml embed` is killed after `--kill_after` seconds
and called again; the result says how many pictures it had reported as decoded by then, and how many embeddings were
kept. Wall time and peak memory of each command. Writes folder.json into WORKDIR.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from jaxml import config as configs
from jaxml.commands.options import parse
from jaxml.commands.process import command
from jaxml.data.sources.glyphs import Drawings
from jaxml.files import expand, write_json

A_FOLDER = 1000
"""Pictures in a subfolder."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which network, and how many pictures."""

    model: str
    """Directory of a run."""
    pictures: int = 100_000
    """Number of pictures."""
    clusters: int = 200
    """Number of clusters."""
    kill_after: float = 30.0
    """Seconds after which the first embedding is killed."""
    workdir: Path = Path("runs/folder")
    """Folder for pictures and results."""


def draw(folder: Path, count: int) -> None:
    """Write drawn characters, a thousand in a subfolder."""
    drawings = (data for seed in itertools.count() for data in Drawings(seed))
    for i, data in enumerate(itertools.islice(drawings, count)):
        place = folder / f"{i // A_FOLDER:03d}" / f"{i:06d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def timed(log: Path, words: list[str], kill_after: float | None = None) -> dict[str, Any]:
    """Seconds and peak memory of a `jaxml` command, and how many pictures it says that it embedded."""
    with open(log, "w") as file:
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "jaxml", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if kill_after is not None:
            time.sleep(kill_after)
            if process.poll() is not None:
                raise RuntimeError(
                    f"jaxml {words[0]} ended before it was killed: give a smaller --kill_after"
                )
            os.killpg(process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
    if status and kill_after is None:
        raise RuntimeError(f"jaxml {' '.join(words)} failed: see {log}")
    reported = re.findall(r"^decoding: ([\d,]+) of", log.read_text(), re.M)
    found = {"s": round(seconds, 1), "GiB": round(usage.ru_maxrss / 2**20, 2)}
    if reported:
        found["decoded"] = int(reported[-1].replace(",", ""))
    print(f"{words[0]:10}{found}", flush=True)
    return found


def kept(model: str) -> int:
    """Embeddings in the newest file that is kept for a network."""
    cache = expand(configs.load(Path(model) / "config.json").data.cache, "--data.cache")
    newest = max((cache / "embeddings").glob("*.sqlite"), key=lambda path: path.stat().st_mtime)
    with closing(sqlite3.connect(newest)) as file:
        return int(file.execute("SELECT COUNT(*) FROM embeddings").fetchone()[0])


def main(words: list[str]) -> None:
    """Draw, embed, kill, embed again, cluster and search."""
    arguments = parse(Arguments, words, __doc__)
    place = arguments.workdir
    pictures, index = place / "pictures", place / "pictures.index"
    if not pictures.exists():
        draw(pictures, arguments.pictures)
    embed = ["embed", "--model", arguments.model, "--images", str(pictures), "--out", str(index)]
    found = {"killed": timed(place / "killed.log", embed, arguments.kill_after)}
    found["killed"]["kept"] = kept(arguments.model)
    found["embedded"] = timed(place / "embed.log", embed)
    found["again"] = timed(place / "again.log", embed)
    cluster = ["cluster", "--model", arguments.model, "--images", str(pictures)]
    found["clustered"] = timed(
        place / "cluster.log",
        [*cluster, "--clusters", str(arguments.clusters), "--out", str(place / "clusters")],
    )
    query = next(pictures.rglob("*.png"))
    search = ["search", "--model", arguments.model, "--images", str(index), "--query", str(query)]
    found["searched"] = timed(place / "search.log", [*search, "--out", str(place / "nearest")])
    write_json(place / "folder.json", found)
    killed = found["killed"]
    print(
        f"{killed.get('decoded', 0):,} pictures reported before the kill, {killed['kept']:,} embeddings kept"
    )


if __name__ == "__main__":
    command(main)
