"""The command `jaxml`: a table of verbs, each a file of this room that is imported only when it is called.

The file of a verb has a docstring, which is its help; `Arguments`, a frozen dataclass of `checks.options` with a type,
limits and a docstring for each option; and `main(words)`, which parses the words after the verb, and imports what is
slow only after that. Mistakes that a user can mend are raised as `ValueError` or one of `jaxml.errors`, and end in one
line.
"""

import importlib
import signal
import sys
from collections.abc import Sequence

VERBS = {
    "train": ("Train a network on some classes, cluster others, and write a report.", "jaxml.commands.train"),
    "evaluate": (
        "Cluster one part of a run's data with its best checkpoint, and print all metrics.",
        "jaxml.commands.evaluate",
    ),
    "report": ("Write the report of a finished run again.", "jaxml.commands.report"),
    "cluster": (
        "Find the classes in a folder of unlabelled pictures with a trained run.",
        "jaxml.commands.cluster",
    ),
    "embed": ("Embed pictures with a trained network.", "jaxml.commands.embed"),
    "search": ("Find the pictures that are nearest to one picture.", "jaxml.commands.search"),
    "tune": ("Search a preset's options for the highest NMI of validation classes.", "jaxml.commands.tune"),
    "plan": ("Say what a run needs on an accelerator before one is rented.", "jaxml.commands.plan"),
    "weights": ("Find, look into and convert files of pretrained weights.", "jaxml.commands.weights"),
}
"""By verb, the first line of its help, and its module."""

HELP = """usage: jaxml VERB [OPTIONS]

Deep metric learning on JAX: embeddings that cluster classes never seen in training.

verbs:
{verbs}

jaxml VERB --help                         the options of a verb
jaxml --version                           the version
jaxml --print-completion bash|zsh|fish    a script that completes verbs and options in a shell

Exit codes: 0 finished, 1 an error that the last line names, 2 wrong options, 75 stopped by a signal and saved,
130 stopped by Ctrl-C where there was nothing to save.
"""


def main() -> None:
    """Run the command line of this process, `jaxml VERB [OPTIONS]`."""
    first, *rest = sys.argv[1:] or [""]
    if first in VERBS:
        sys.argv[0] = f"jaxml {first}"  # as the verb's help and its errors call it
        run(first, rest)
    elif first == "--version":
        from jaxml import __version__

        print(f"jaxml {__version__}")
    elif first == "--print-completion":
        from jaxml.commands import completion, process

        process.command(completion.main, rest)
    elif first in ("", "-h", "--help"):
        verbs = "\n".join(f"  {name:10}{line}" for name, (line, _) in VERBS.items())
        print(HELP.format(verbs=verbs), end="")
        sys.exit(0 if first else 2)
    else:
        print(f"error: jaxml has no verb {first!r}; give one of {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)


def run(verb: str, words: Sequence[str] | None = None) -> None:
    """Run a verb with the words after it, by default those of this process's command line."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        # Ctrl-C while this imports ends the process without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from jaxml.commands.process import command

    main = importlib.import_module(VERBS[verb][1]).main
    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command(main, sys.argv[1:] if words is None else list(words))
