"""Measures how long a trained network takes to embed pictures from their files, one and many at a time.

    python -m experiments.benchmarks.embedding --model runs/cub_squeezenet

The pictures are the first `--count` of the run's data set, whose items must be files. Beside `Model.embed` stands what
`jaxml evaluate` does with the same files: decode them at the run's size, and embed the pixels. Warm, medians.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np

import jaxml
from experiments.benchmarks.timing import in_turn, ratio, where
from jaxml.commands.options import parse
from jaxml.commands.process import command
from jaxml.data import decode
from jaxml.training import run

ONE = 60
"""Pictures that are embedded one at a time."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which network, and which pictures."""

    model: str
    """Directory of a run whose pictures are files."""
    count: int = 1000
    """Number of pictures."""
    seconds: float = 20.0
    """Seconds for which they are embedded in turn."""


def main(words: list[str]) -> None:
    """Print the milliseconds of one picture, and the seconds of many by either way."""
    arguments = parse(Arguments, words, __doc__)
    model, opened = jaxml.load(arguments.model), run.load(arguments.model)
    rows = np.arange(min(arguments.count, len(opened.images.index.labels)))
    index, data = opened.images.index.take(rows), opened.config.data
    paths = [str(item) for item in index.items]

    def as_evaluated() -> None:
        for _ in decode.decode_all(index, size=data.stored_size, crop_to_box=False):
            pass
        opened.embed(rows)

    ways: dict[str, Callable[[], object]] = {"Model.embed": lambda: model.embed(paths), "run": as_evaluated}
    model.embed(paths[:1])
    alone = []
    for path in paths[:ONE]:
        start = time.perf_counter()
        model.embed([path])
        alone.append(time.perf_counter() - start)
    times = in_turn(ways, arguments.seconds)
    print(f"one picture: {1e3 * statistics.median(alone):.1f} ms")
    print(
        f"{len(paths):,} pictures: {statistics.median(times['Model.embed']):.2f} s, decoded and embedded as by "
        f"evaluate {statistics.median(times['run']):.2f} s, ratio {ratio(times, 'Model.embed', 'run'):.2f}"
    )
    print(where())


if __name__ == "__main__":
    command(main)
