"""Names of files, which may be hostile, in the places where they are shown."""

import unicodedata

import pytest

from jaxml import names

HOSTILE = [
    "a\x1b[2Jb",
    "a\nb",
    "a\r\tb",
    "a\x00\x07\x7f\x9bb",
    "photo\u202egpj.exe",
    "a\u2066b\u2069",
    "a\u2028b\u2029",
    "b\udcff\udc80",
    "\ufeffa\u200b",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_terminal_would_obey_is_shown_and_never_sent(name):
    shown = names.text(name)
    for character in shown:
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"), repr(character)
    assert len(shown.splitlines()) == 1
    assert shown.encode("utf-8")
    assert names.text(shown) == shown
    assert shown.encode("ascii").decode("unicode_escape") == name


def test_different_bytes_are_shown_differently():
    shown = [names.text(name) for name in ("a\udcff", "a\udcfe", "a\n", "a\x1b", "a", "a ")]
    assert len(set(shown)) == 6


@pytest.mark.parametrize("name", ["Ä ö.png", "鳥/図.jpg", "a b=1+1", "C:\\bird", "🐦.png"])
def test_ordinary_names_stay_as_they_are(name):
    assert names.text(name) == names.cell(name) == name


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_cell_is_never_a_formula(begin):
    assert names.cell(f"{begin}1+1.png") == f"'{begin}1+1.png"


@pytest.mark.parametrize("begin", ["\t", "\r", "\n"])
def test_a_cell_begins_with_no_control_character(begin):
    assert names.cell(f"{begin}=1") == begin.encode("unicode_escape").decode() + "=1"
