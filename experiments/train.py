"""Train a network on some classes, cluster the images of others, and write a report.

    python experiments/train.py --preset glyphs_simple
    python experiments/train.py --preset cub_squeezenet --data.root CUB_200_2011 --model.weights FILE
    python experiments/train.py --workdir runs/glyphs_simple --resume
    python experiments/train.py --preset glyphs_simple --distributed    # on every host

Exit codes: 0 finished, 1 an error that the last line names, 2 wrong options, 75 stopped by SIGTERM and saved
(run it again with --resume).
"""

from pathlib import Path

from jaxml.cli import command, parse_train


def main(words: list[str]) -> None:
    arguments = parse_train(words, __doc__)
    from jaxml import distributed, run  # after parsing, so that --help and wrong options answer at once

    if arguments.distributed:
        distributed.start()
    results = run.train(arguments.config, arguments.workdir, resume=arguments.resume)
    if not distributed.is_main():
        return
    print(f"\nclusters of unseen classes, network of step {results['step']}:")
    print(run.table({**results["baselines"], "this run": results["test"]}))
    print(f"report: {Path(arguments.workdir) / 'report.html'}")


if __name__ == "__main__":
    command(main)
