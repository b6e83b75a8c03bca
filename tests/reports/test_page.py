"""Templates: values are escaped, whatever they hold, and HTML must be declared as such."""

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from jaxml.reports import page


def rendered(tmp_path, template, **values):
    (tmp_path / "template.html").write_text(template, encoding="utf-8")
    return page.render(tmp_path / "template.html", **values)


@pytest.mark.parametrize(
    "value",
    [
        "</title><script>alert(1)</script>",
        "\" onload='x' a=\"",
        "{{ 1 + 1 }}",
        "&lt;",
        "\x1b]0;x\x07\u202egpj\n\udcff",
    ],
)
def test_text_stays_text(tmp_path, value):
    shown = rendered(tmp_path, '<b title="{{ value }}">{{ value }}</b>', value=value)
    start, end = '<b title="', "</b>"
    assert shown.startswith(start)
    assert shown.endswith(end)
    attribute, content = shown.removeprefix(start).removesuffix(end).split('">')
    assert attribute == content
    assert not set("<>\"'") & set(content)
    assert content.isprintable()
    assert Markup(content).unescape() == page.printable(value)


def test_html_stays_html_if_it_is_declared(tmp_path):
    assert rendered(tmp_path, "{{ value }}", value=Markup("<svg></svg>")) == "<svg></svg>"


def test_a_template_extends_those_of_the_package(tmp_path):
    template = '{% extends "page.html" %}{% block content %}{{ value }}{% endblock %}'
    shown = rendered(tmp_path, template, title="<a>", value="<b>")
    assert "<title>&lt;a&gt;</title>" in shown
    assert "&lt;b&gt;</main>" in shown


def test_a_value_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(UndefinedError, match="value"):
        rendered(tmp_path, "{{ value }}")


@pytest.mark.parametrize(
    ("value", "shown"),
    [("", "–"), ((), "–"), (False, "False"), (("margin", 0.2), "margin, 0.2"), ({"a": (1, 2)}, "a 1, 2")],  # noqa: RUF001
)
def test_options_are_shown_without_brackets(value, shown):
    assert page.plain(value) == shown
