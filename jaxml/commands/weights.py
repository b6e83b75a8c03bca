"""Look into files of pretrained weights, and convert them.

    jaxml weights inspect squeezenet1_1.pth
    jaxml weights convert squeezenet1_1.pth

Exit codes: 0 done, 1 an error that the last line names, 2 wrong options.
"""

from typing import Annotated, Any, Union

import tyro

from jaxml.models.weights.pretrained import convert, inspect

FUNCTIONS = {"inspect": inspect, "convert": convert}
"""By the word after `jaxml weights`, the function that is called with the options."""

Arguments: Any = Union[  # noqa: UP007  # of as many as there are
    tuple(Annotated[function, tyro.conf.subcommand(name)] for name, function in FUNCTIONS.items())
]
"""The options of one of the functions."""


def main(words: list[str]) -> None:
    """Call one of the functions with its options."""
    tyro.cli(Arguments, args=words, description=__doc__, use_underscores=True)
