"""The types of options and the limits that several of them share."""

import re
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, Discriminator, Strict, Tag

INT32, FLOAT32 = 2**31 - 1, 3.4e38
"""The largest numbers that devices compute with."""

Bool = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Int = Annotated[int, Strict(), Ge(-INT32), Le(INT32)]
Float = Annotated[float, Strict(), Ge(-FLOAT32), Le(FLOAT32)]
Count = Annotated[Int, Ge(1)]
Pixels = Annotated[Int, Ge(1), Le(2**14)]
Seed = Annotated[int, Strict(), Ge(0), Le(2**32 - 1)]
Share = Annotated[Float, Gt(0), Le(1)]


def _kind(value: Any) -> str | None:
    """The name of a plain value's type; None for other values."""
    # True is an int as well, so that bool comes first.
    return next((kind.__name__ for kind in (bool, int, float, str) if isinstance(value, kind)), None)


# Without tags a whole number that is too large for an Int would be accepted as a Float.
Value = Annotated[
    Annotated[Bool, Tag("bool")]
    | Annotated[Int, Tag("int")]
    | Annotated[Float, Tag("float")]
    | Annotated[Text, Tag("str")],
    Discriminator(_kind),
]
"""A hyper-parameter of a loss."""


def _check_regex(text: str) -> str:
    """The text, if it is a regular expression."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"a regular expression ({error})") from None
    return text


def _check_category(text: str) -> str:
    """The text, if it says how to tell the category of a class."""
    if text not in ("", "source") and not re.compile(_check_regex(text)).groups:
        raise ValueError(
            "source, or a regular expression with a group in parentheses, which matches the category"
        )
    return text


def _check_order(bounds: tuple[float, float]) -> tuple[float, float]:
    """The bounds, if the first is not the greater one."""
    if bounds[0] > bounds[1]:
        raise ValueError("two numbers in ascending order")
    return bounds


def _check_some(shares: tuple[float, ...]) -> tuple[float, ...]:
    """The shares, if there are any."""
    if not shares:
        raise ValueError("at least one share")
    return shares


Regex = Annotated[Text, AfterValidator(_check_regex)]
Category = Annotated[Text, AfterValidator(_check_category)]
"""Where the categories of classes come from, see `data.categories.of_classes`."""
ShareRange = Annotated[tuple[Share, Share], AfterValidator(_check_order)]
Shares = Annotated[tuple[Share, ...], AfterValidator(_check_some)]
