"""What an option may be, in words: for errors, `--help` and the documentation."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from jaxml.arguments import shown
from jaxml.config.values import FLOAT32, INT32

Schema = dict[str, Any]
"""The JSON schema of an option."""

BEYOND = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "value_error": "{error}",
}
"""What a value must be that has the right type but is not allowed, by pydantic's name of the error."""


def explained(error: ValidationError, section: str, given: Any, options: dict[str, Schema]) -> str:
    """What is wrong with a section, on one line: its unknown options, or its first wrong one and what that may be.

    Args:
        error: What pydantic says of the section.
        section: Its name.
        given: What was given for it: an instance of its dataclass, a table, or something else.
        options: The JSON schema of every option by its name `section.option`.
    """
    problems = error.errors(include_url=False)
    known = ", ".join(name for name in options if name.startswith(f"{section}."))
    if not problems[0]["loc"]:
        return f"section {section} of a configuration is {shown(given)}; it must be a table of {known}"
    unknown = [
        shown(f"{section}.{problem['loc'][0]}")
        for problem in problems
        if problem["type"] in ("unexpected_keyword_argument", "invalid_key")
    ]
    if unknown:
        return f"unknown configuration options {', '.join(unknown[:5])}; known: {known}"
    option, *entry = problems[0]["loc"]
    if beyond := BEYOND.get(problems[0]["type"]):
        limits = {name: str(limit).removesuffix(".0") for name, limit in problems[0]["ctx"].items()}
        found = f"{'has' if entry else 'is'} {shown(problems[0]['input'])}"
        rule = beyond.format(**limits)
    else:
        value = given[option] if isinstance(given, Mapping) else getattr(given, str(option))
        found = f"is {shown(value)}"
        rule = allowed(options[f"{section}.{option}"])
    return f"--{section}.{option} {found}; it must be {rule}"


def described(schema: Schema) -> str:
    """What an option is, and its limits, in sentences."""
    words = limits(schema).capitalize()
    return " ".join([*schema["description"].split(), *([f"{words}."] if words else [])])


def allowed(schema: Schema) -> str:
    """The values that an option can have in words, such as "a whole number of at least 1"."""
    if "enum" in schema:
        return " or ".join(schema["enum"])
    if "oneOf" in schema:
        return " or ".join(allowed({"type": kind["type"]}) for kind in schema["oneOf"])
    if "prefixItems" in schema:
        return f"({', '.join(map(allowed, schema['prefixItems']))})"
    if "items" in schema:
        return f"a list of {allowed(schema['items'])}"
    names = {
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a finite number",
        "string": "text",
    }
    return " of ".join(filter(None, (names[schema["type"]], limits(schema))))


def limits(schema: Schema) -> str:
    """The limits of an option in words, such as "at least 1"; empty if only those of its type hold."""
    entries = [limits(entry) for entry in (*schema.get("prefixItems", ()), schema.get("items", {})) if entry]
    words = {
        "exclusiveMinimum": "more than",
        "minimum": "at least",
        "exclusiveMaximum": "less than",
        "maximum": "at most",
    }
    own = [
        f"{word} {schema[name]}"
        for name, word in words.items()
        if name in schema and abs(schema[name]) not in (INT32, FLOAT32)
    ]
    return ", ".join(filter(None, [" and ".join(own), *dict.fromkeys(entries)]))
