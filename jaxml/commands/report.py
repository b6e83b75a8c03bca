"""Write the report of a finished run again.

    jaxml report --workdir runs/glyphs_simple

Needs the run's directory and its data set, whose pictures the report shows. The scores are those in results.json, which
is left as it is: `jaxml evaluate` computes them anew. The configuration must be the one that the checkpoint was saved
with, and the pictures must be those that the run has seen, unless --other_data is given.
"""

import dataclasses
from typing import Annotated

from jaxml.commands.options import also, parse
from jaxml.config.checks import options


@options
@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which run."""

    workdir: str
    """Directory of the run."""
    data_root: Annotated[str, also("--data.root")] = ""
    """Folder of the data set, if it has moved since the training."""
    other_data: bool = False
    """Show other pictures than those that the run has seen."""


def main(words: list[str]) -> None:
    """Open the run, and write its report."""
    arguments = parse(Arguments, words, __doc__)
    from jaxml.training import results, run
    from jaxml.training.lock import locked

    opened = run.load(arguments.workdir, data_root=arguments.data_root, other_data=arguments.other_data)
    with locked(opened.workdir):
        found = results.read_results(opened)
        rows = opened.images.rows(found.get("split", "test"))
        print(f"report: {results.write_report(opened, found, rows, opened.embed(rows))}")
