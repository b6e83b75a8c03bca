"""Pieces of a self-contained HTML page: the shell with its style, tables, tiles, and pictures as data URIs."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

import numpy as np

from jaxml.files import printable

DASH, TIMES = "\u2013", "\u00d7"

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b1f27; --muted: #5d6675;
  --line: #dfe3e9; --accent: #2458c5; --soft: #e8eefb; --right: #12803c; --wrong: #cf2230; --flag: #8a5300;
  --flag-soft: #fdf1dc; }
@media (prefers-color-scheme: dark) { :root { --page: #12151a; --card: #1b2027; --ink: #e8ebf0;
  --muted: #a2acba; --line: #333b46; --accent: #8ab0ff; --soft: #232f47; --right: #4fcf7e; --wrong: #ff7a80;
  --flag: #f3c06b; --flag-soft: #3a2e18; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 2rem 1rem 3rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 .3rem; }
h3 { font-size: .95rem; margin: 0 0 .35rem; }
p { margin: 0 0 .8rem; max-width: 92ch; }
.note { color: var(--muted); font-size: .92rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.2rem 1.3rem;
  margin-top: 1.2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem;
  margin-top: 1.2rem; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.75rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: .88rem; display: block; }
.scroll { overflow-x: auto; }
.scroll + .scroll { margin-top: 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: .2rem; }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 400; }
tr.ours th, tr.ours td { font-weight: 700; background: var(--soft); }
td small { color: var(--muted); font-weight: 400; }
.flag { display: inline-block; background: var(--flag-soft); color: var(--flag); border-radius: 6px;
  padding: .05rem .5rem; font-size: .82rem; font-weight: 600; vertical-align: .1em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 1rem; }
.charts figure { margin: 0; min-width: 0; }
figure svg { width: 100%; height: auto; display: block; }
svg text { font-family: inherit !important; }
.map svg { min-width: 860px; width: 100%; height: auto; display: block; }
.rows { display: grid; gap: .9rem; }
.row { display: grid; grid-template-columns: 112px 1fr; gap: 1rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
.row:first-child { border-top: 0; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(86px, 1fr)); gap: .5rem; }
.picture { margin: 0; position: relative; min-width: 0; font-size: .74rem; line-height: 1.3; }
.picture img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 7px;
  border: 3px solid var(--line); background: var(--line); }
.picture figcaption { margin-top: .25rem; color: var(--muted); overflow-wrap: anywhere; }
.picture figcaption b { color: var(--ink); display: block; font-weight: 600; hyphens: auto; }
figcaption .sign { font-size: 1.15rem; }
.right img { border-color: var(--right); }
.wrong img { border-color: var(--wrong); border-style: dashed; }
.query img { border-color: var(--ink); }
.mark { position: absolute; top: 5px; right: 5px; width: 1.3rem; height: 1.3rem; border-radius: 50%;
  color: var(--card); font: 700 .85rem/1.3rem system-ui, sans-serif; text-align: center; }
.right .mark { background: var(--right); }
.wrong .mark { background: var(--wrong); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(250px, 100%), 1fr)); gap: .9rem; }
.card { display: grid; grid-template-columns: 1fr auto 1fr; gap: .6rem; border: 1px solid var(--line);
  border-radius: 10px; padding: .7rem; }
.arrow { align-self: start; margin-top: 2.3rem; color: var(--muted); font-size: 1.2rem; }
.options { columns: 300px; column-gap: 2rem; }
.options div { break-inside: avoid; margin-bottom: 1rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .9rem; margin: 0; font-size: .88rem; }
dt { color: var(--muted); }
dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
@media (max-width: 560px) { section { padding: 1rem .9rem; } .row { grid-template-columns: 1fr; }
  .row > .query { max-width: 112px; } .strip { grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)); }
  th, td { padding: .4rem .25rem; font-size: .82rem; } td small { display: block; }
  th { white-space: normal; } tbody th { min-width: 5.5rem; } }
@media print { :root { color-scheme: light; --page: #fff; --card: #fff; --ink: #000; --muted: #444;
  --line: #ccc; --accent: #2458c5; --soft: #eef2fb; --right: #12803c; --wrong: #cf2230; --flag: #8a5300;
  --flag-soft: #fdf1dc; }
  body { font-size: 11pt; } main { padding: 0; max-width: none; } section { padding: .8rem; }
  .row, .card, .tile, .map, .charts figure, tr { break-inside: avoid; } h2, .note { break-after: avoid; }
  .scroll { overflow: visible; } .map svg { min-width: 0; }
  section:has(.map), .note { break-inside: avoid; } .row { grid-template-columns: 76px 1fr; }
  .strip { grid-template-columns: repeat(10, 1fr); gap: .3rem; } .strip figcaption { font-size: .6rem; }
  .cards { grid-template-columns: repeat(4, 1fr); } .card { padding: .4rem; gap: .3rem; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def escape(text: object) -> str:
    """Text as HTML; what does not print, as in names of files, becomes visible."""
    return html.escape(printable(text))


def document(title: str, *parts: str) -> str:
    """A complete HTML page from a title (text) and parts (HTML)."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, note: str, *parts: str) -> str:
    """A titled block; title and note are text, parts are HTML."""
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{note}\n" + "\n".join(parts) + "\n</section>"


def tiles(numbers: Iterable[tuple[str, str]]) -> str:
    """Large numbers with a line of text below each: (number, text)."""
    cells = (f'<div class="tile"><b>{escape(n)}</b><span>{escape(t)}</span></div>' for n, t in numbers)
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], ours: Sequence[str] = ()) -> str:
    """A table of text; rows are (name, cells), and those whose name is in `ours` stand out."""
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in ("", *columns))
    body = ""
    for name, cells in rows:
        mark = ' class="ours"' if name in ours else ""
        values = "".join(f"<td>{_value(c)}</td>" for c in cells)
        body += f'<tr{mark}><th scope="row">{escape(name)}</th>{values}</tr>\n'
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def _value(cell: str) -> str:
    """A number, its deviation in small print."""
    number, sign, deviation = escape(cell).partition(" ±")
    return f"{number}<small>{sign}{deviation}</small>" if sign else number


def options(sections: dict[str, dict[str, object]]) -> str:
    """A configuration: names and values by section."""
    blocks = ""
    for name, values in sections.items():
        items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(_plain(v))}</dd>" for k, v in values.items())
        blocks += f"<div><h3>{escape(name)}</h3><dl>{items}</dl></div>"
    return f'<div class="options">{blocks}</div>'


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) or DASH
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value) or DASH
    return DASH if value == "" else str(value)


def data_uri(image: np.ndarray, size: int = 112, quality: int = 82) -> str:
    """JPEG data URI of an image uint8 [h, w, 3], made smaller where a side is over `size` pixels."""
    from PIL import Image

    picture = Image.fromarray(np.asarray(image, np.uint8))
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(image: np.ndarray, title: str, note: str = "", kind: str = "") -> str:
    """A picture with its title; kind `right` or `wrong` frames it and adds a tick or a cross."""
    mark = {"right": "✓", "wrong": "✗"}.get(kind)
    badge = f'<span class="mark" role="img" aria-label="{kind}">{mark}</span>' if mark else ""
    note = f"{escape(note)} " if note else ""
    sign = ' class="sign"' if len(title) <= 2 else ""
    return (
        f'<figure class="picture {kind}"><img src="{data_uri(image)}" alt="{escape(title)}">{badge}'
        f"<figcaption>{note}<b{sign}>{escape(title)}</b></figcaption></figure>"
    )
