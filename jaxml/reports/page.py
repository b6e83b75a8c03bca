"""Renders HTML pages from templates; pictures become data URIs, so that a page is one file without resources."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from jaxml.files import printable

DASH = "\u2013"
"""Stands for what was not measured, and for options that are empty."""


class Picture(NamedTuple):
    """A picture on a page."""

    source: str
    """Data URI."""
    title: str
    note: str
    """Text before the title; may be empty."""
    kind: str
    """`query`, `right` or `wrong`; empty for a picture without a mark."""


def render(template: str | Path, **values: Any) -> str:
    """Fill in a template of this package, by name, or a template file elsewhere that extends one of them.

    Values are text and are escaped, and characters that do not print become visible, for they may be names of files.
    HTML that is to stay as it is must be `Markup`.
    """
    environment = _environment()
    if isinstance(template, Path):
        return environment.from_string(template.read_text(encoding="utf-8")).render(values)
    return environment.get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("jaxml.reports"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = plain
    # For scripts: `tojson` writes <, > and & as escapes of JSON, so no text in the value ends the element around it.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


def plain(value: object) -> str:
    """The value of an option as text: lists and tables without brackets, a dash for what is empty."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items()) or DASH
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value) or DASH
    return DASH if value == "" else str(value)


def picture(image: np.ndarray, title: str, note: str = "", kind: str = "") -> Picture:
    """A picture on a page from its pixels uint8 [h, w, 3]."""
    return Picture(data_uri(image), title, note, kind)


def data_uri(image: np.ndarray, size: int = 112, quality: int = 82) -> str:
    """JPEG data URI of an image uint8 [h, w, 3], made smaller where a side is over `size` pixels."""
    from PIL import Image

    shown = Image.fromarray(np.asarray(image, np.uint8))
    shown.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
