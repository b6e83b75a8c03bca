"""Train a network on some classes, cluster the images of others, and write a report.

    python experiments/train.py --preset glyphs_simple
    python experiments/train.py --preset cub_squeezenet --data.root CUB_200_2011 --model.weights FILE
    python experiments/train.py --workdir runs/glyphs_simple --resume
    python experiments/train.py --preset glyphs_simple --distributed    # on every host

SIGTERM, Ctrl-C and SIGHUP end the run after the current step, which is saved; a second signal ends it at once. Only one
process can train in WORKDIR at a time; evaluate.py and cluster.py may read it meanwhile. A run continues only with the
pictures that it has seen, unless --other_data is given.

Exit codes: 0 finished, 1 an error that the last line names, 2 wrong options, 75 stopped by a signal and saved
(run it again with --resume), 130 stopped by Ctrl-C before training began.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxml.cli import command, parse_train


def main(words: list[str], callbacks: Sequence[Any] = ()) -> None:
    arguments = parse_train(words, __doc__)
    # Imported after parsing, so that --help and wrong options answer at once.
    from jaxml.training import distributed, results, train

    if arguments.distributed:
        distributed.start()
    found = train.train(
        arguments.config,
        arguments.workdir,
        resume=arguments.resume,
        other_data=arguments.other_data,
        callbacks=callbacks,
    )
    if not distributed.is_main():
        return
    print(f"\nclusters of unseen classes, network of step {found['step']}:")
    print(results.table({**found["baselines"], "this run": found["test"]}))
    print(f"report: {Path(arguments.workdir) / 'report.html'}")


if __name__ == "__main__":
    command(main)
