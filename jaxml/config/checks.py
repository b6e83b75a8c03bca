"""Checks the options in a dataclass against the annotations of its fields, and puts these annotations in words."""

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from jaxml.arguments import shown
from jaxml.config.values import FLOAT32, INT32

Options = TypeVar("Options")
Schema = dict[str, Any]
"""The JSON schema of an option: its description, default, type, choices and limits."""

options = with_config(
    ConfigDict(
        extra="forbid", allow_inf_nan=False, revalidate_instances="always", use_attribute_docstrings=True
    )
)
"""Decorator of a dataclass of options, for `checked` and `schemas`."""

BEYOND = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "value_error": "{error}",
}
"""What a value must be that has the right type but is not allowed, by pydantic's name of the error."""


def checked(kind: type[Options], given: Any, prefix: str = "") -> Options:
    """Check options, given as a table or an instance, and return them as an instance; its lists become tuples.

    Args:
        kind: Dataclass of the options.
        given: Table of options, or an instance of `kind`.
        prefix: What stands before the names of the options on the command line, such as "train.".

    Raises:
        ValueError: an option is unknown, or has a value that it cannot have; one line names it and says what it may be.
    """
    try:
        return _adapter(kind).validate_python(given)  # type: ignore[arg-type]  # types can be hashed
    except ValidationError as error:
        raise ValueError(_explained(error, given, prefix, schemas(kind))) from None


def schemas(kind: type) -> dict[str, Schema]:
    """The JSON schema of every option in a dataclass, by name."""
    return _adapter(kind).json_schema()["properties"]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _explained(error: ValidationError, given: Any, prefix: str, known: dict[str, Schema]) -> str:
    """What is wrong, on one line: all unknown options, or the first wrong one, its value and what it may be."""
    problems = error.errors(include_url=False)
    names = ", ".join(f"{prefix}{name}" for name in known)
    if not problems[0]["loc"]:
        return f"the {prefix.strip('.')} options of a configuration are {shown(given)}; they must be a table of {names}"
    unknown = [
        shown(f"{prefix}{problem['loc'][0]}")
        for problem in problems
        if problem["type"] in ("unexpected_keyword_argument", "invalid_key")
    ]
    if unknown:
        return f"unknown configuration options {', '.join(unknown[:5])}; known: {names}"
    name, *entry = problems[0]["loc"]
    if beyond := BEYOND.get(problems[0]["type"]):
        limit = {key: str(value).removesuffix(".0") for key, value in problems[0]["ctx"].items()}
        found = f"{'has' if entry else 'is'} {shown(problems[0]['input'])}"
        rule = beyond.format(**limit)
    else:
        value = given[name] if isinstance(given, Mapping) else getattr(given, str(name))
        found = f"is {shown(value)}"
        rule = allowed(known[str(name)])
    return f"--{prefix}{name} {found}; it must be {rule}"


def described(schema: Schema) -> str:
    """What an option is, and its limits, in sentences."""
    limit = limits(schema).capitalize()
    return " ".join([*schema.get("description", "").split(), *([f"{limit}."] if limit else [])])


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
    entries = [limits(entry) for entry in (*schema.get("prefixItems", ()), schema.get("items", {})) if entry]
    return ", ".join(filter(None, [" and ".join(own), *dict.fromkeys(entries)]))
