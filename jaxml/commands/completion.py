"""Completion of verbs and options in a shell."""

import importlib
from typing import Annotated, Any, Union

import tyro

from jaxml.commands import VERBS
from jaxml.commands.options import REGISTRY

SHELLS = ("bash", "zsh", "fish")


def main(words: list[str]) -> None:
    """Print the completion script for the shell that the one word names."""
    if len(words) != 1 or words[0] not in SHELLS:
        given = f"is {' '.join(words)}" if words else "needs a shell"
        raise ValueError(f"--print-completion {given}; give one of {', '.join(SHELLS)}")
    verbs = [
        Annotated[importlib.import_module(module).Arguments, tyro.conf.subcommand(name, description=line)]
        for name, (line, module) in VERBS.items()
    ]
    every: Any = Union[tuple(verbs)]  # noqa: UP007  # of as many as there are
    tyro.cli(
        every,
        prog="jaxml",
        args=["--tyro-print-completion", *words],
        use_underscores=True,
        registry=REGISTRY,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
