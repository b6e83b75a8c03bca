"""Names from outside, such as those of files, made fit for the place where they are shown.

A file name may hold anything but a slash and a zero: line ends, escape sequences that a terminal obeys, marks that
turn the direction of writing, bytes that are no UTF-8.
"""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell begins with that spreadsheets run as a formula; the last four are their full-width forms."""


def text(name: object) -> str:
    """One line of printable Unicode text, for terminals, text files and messages: all else is shown as its escape.

    Escapes are Python's, such as \\n, \\x1b and \\u202e; \\udcff stands for the byte 255 that is no UTF-8. Text that
    is fit already stays as it is. A page must escape the result for HTML as well, as `page` does.
    """
    shown = str(name)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


def cell(name: object) -> str:
    """The same for a cell of a CSV file: what a spreadsheet would run as a formula gets an apostrophe before it.

    Source: OWASP, CSV injection. Tabs and line ends, from which it guards too, are escapes by then.
    """
    shown = text(name)
    return f"'{shown}" if shown.startswith(FORMULA) else shown
